"""Reads what servers say of themselves on /metrics, beside the passes: a pod that does not answer holds up none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from vllm_operator.engine.arguments import PORT
from vllm_operator.naming import Key

log = logging.getLogger(__name__)

_AT_ONCE = 8
_ATTEMPTS = 12  # a node that starts many servers at once is busy for a minute
_PAUSE = 5.0
_TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=2.0)
_MOST_BYTES = 4 * 2**20  # a page of vLLM has about 100 KiB


class Gauge:
    """Asks each address once, a few times if need be. `found` is told the page, in the running loop."""

    def __init__(self, found: Callable[[Key, str], None]) -> None:
        self._found = found
        self._asked: dict[Key, str] = {}
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, key: Key, address: str) -> None:
        """Read the metrics of the server at an IP address, unless that was tried before."""
        if self._asked.get(key) == address:
            return
        self._asked[key] = address
        task = asyncio.get_running_loop().create_task(self._ask(key, address), name=f"metrics of {key}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, key: Key) -> None:
        """The resource is gone."""
        self._asked.pop(key, None)

    async def close(self) -> None:
        """Give up what is still under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, key: Key, address: str) -> None:
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE)
            async with self._gate:
                page = await _read(address)
            if page:
                self._found(key, page)
                return
        log.debug("the metrics at %s cannot be read", address, extra={"resource": str(key)})


async def _read(address: str) -> str:
    """A page of metrics; empty when there is none to be had. Follows no redirect: a pod may send us anywhere."""
    host = f"[{address}]" if ":" in address else address
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(f"http://{host}:{PORT}/metrics", allow_redirects=False) as answer,
        ):
            if answer.status != 200:  # noqa: PLR2004
                return ""
            page = bytearray()
            async for chunk in answer.content.iter_chunked(2**16):
                page += chunk
                if len(page) > _MOST_BYTES:
                    return ""
            return page.decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError, OSError):
        return ""
