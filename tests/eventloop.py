"""Waiting for an event loop to come to rest."""

import asyncio
from typing import Any


async def sockets_closed(seconds: float = 10) -> None:
    """Connections take a few turns of the loop to end; where the loop ended first, they would be reported as leaks."""
    loop: Any = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        while len(loop._selector.get_map()) > 1:  # noqa: ASYNC110 - one is the loop's own; nobody tells of the rest
            await asyncio.sleep(0.01)
