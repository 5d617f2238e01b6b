"""Reads what servers say of themselves on /metrics, beside the passes: a pod that does not answer holds up none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from vllm_operator.engine.arguments import PORT
from vllm_operator.naming import Key
from vllm_operator.workqueue import Backoff, QueueClosed, WorkQueue

log = logging.getLogger(__name__)

_AT_ONCE = 8
_ATTEMPTS = 3
_PAUSE = 5.0  # seconds before the second attempt, twice that before the third
_TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=2.0)
_MOST_BYTES = 4 * 2**20  # a page of vLLM has about 100 KiB


class Gauge:
    """Asks each address once, a few times if need be. `found` is told the page, in the running loop."""

    def __init__(self, found: Callable[[Key, str], None]) -> None:
        self._found = found
        self._asked: dict[Key, str] = {}
        # A task for each address that does not answer would take ten times the memory of a key that waits.
        self._due = WorkQueue[Key](Backoff(_PAUSE))
        self._readers: list[asyncio.Task[None]] = []

    def ask(self, key: Key, address: str) -> None:
        """Read the metrics of the server at an IP address, unless that was tried before."""
        if self._asked.get(key) == address:
            return
        self._asked[key] = address
        self._due.forget(key)
        self._due.add(key)
        if not self._readers:
            self._readers = [asyncio.create_task(self._read_all(), name="metrics of servers") for _ in range(_AT_ONCE)]

    def forget(self, key: Key) -> None:
        """The resource is gone."""
        self._asked.pop(key, None)
        self._due.forget(key)

    async def close(self) -> None:
        """Give up what is still under way."""
        self._due.close()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read_all(self) -> None:
        connector = aiohttp.TCPConnector(force_close=True)  # each server is asked once
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
            with suppress(QueueClosed):
                while True:
                    key = await self._due.get()
                    try:
                        await self._read_one(session, key)
                    finally:
                        self._due.done(key)

    async def _read_one(self, session: aiohttp.ClientSession, key: Key) -> None:
        if (address := self._asked.get(key)) is None:
            return
        page = await _read(session, address)
        if self._asked.get(key) != address:
            return  # another is asked for by now
        if page:
            self._due.forget(key)
            self._found(key, page)
        elif self._due.failures(key) + 1 < _ATTEMPTS:
            self._due.retry(key)
        else:
            log.debug("the metrics at %s cannot be read", address, extra={"resource": str(key)})


async def _read(session: aiohttp.ClientSession, address: str) -> str:
    """A page of metrics; empty when there is none to be had. Follows no redirect: a pod may send us anywhere."""
    host = f"[{address}]" if ":" in address else address
    try:
        async with session.get(f"http://{host}:{PORT}/metrics", allow_redirects=False) as answer:
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
