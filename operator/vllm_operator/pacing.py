"""How kopf's requests are paced, and which answers it is spared: by middleware of its HTTP client."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, StreamReader

from vllm_operator.cluster import Cluster
from vllm_operator.cluster.counting import verb_and_resource

log = logging.getLogger(__name__)

# Delays between attempts of a failed request, in seconds, the last of them again and again: none is longer than a user
# would wait once the API server is back. It is tried for so long, which outlasts the upgrade of a control plane; then
# the process ends, loudly, and comes back with a fresh view.
_ERROR_DELAYS, _PATIENCE_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), 600.0
# For so long a request waits for an API server that is known to be away: one for each kind every 16 s, all in vain,
# would be one a second. It goes out as soon as it is back.
_AWAY_SECONDS, _LOOK_SECONDS = 60.0, 0.5
# A kind's watch is begun this often at most: where it ends as soon as it begins, kopf would begin it anew at once.
_WATCH_SECONDS = 2.0
# kopf would die of a request that took too long to arrive, but tries one again where a gateway says so. It would die of
# a list or a watch, too, that goes on from what the API server no longer knows; without that it can be had, and without
# pages at once: the next one may be too late as well.
_TOO_LATE, _GATEWAY_TOO_LATE, _UNKNOWN = 408, 504, 410
_GOES_ON_FROM = ("continue", "limit", "resourceVersion")
# An error in a watch, as Kubernetes writes it, at the beginning of a line; and the only one that kopf does not die of.
_ERROR = re.compile(rb'^\{"type": ?"ERROR".*', re.MULTILINE)
_UNKNOWN_ERROR = b'{"type":"ERROR","object":{"code":410}}\n'
_ERROR_LENGTH = 512  # characters of an error in the log


class ErrorDelays:
    """A fresh, jittered series of delays for every request, so that watches do not come back in step.

    It begins when the request fails for the first time, and ends by the clock: attempts take their time, too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def __iter__(self) -> Iterator[float]:
        end = self._clock() + _PATIENCE_SECONDS
        for delay in itertools.chain(_ERROR_DELAYS, itertools.repeat(_ERROR_DELAYS[-1])):
            if self._clock() >= end:
                return
            yield delay * random.uniform(0.75, 1.25)  # noqa: S311 - not cryptography


class _Lines:
    """What a watch brings. An error in it becomes the one that makes kopf list anew, if `puts_off` says so.

    `puts_off` is given the error, and the delays that errors in a row have left: all of them once something else came.
    """

    def __init__(
        self, content: StreamReader, delays: Iterator[float], puts_off: Callable[[str, Iterator[float]], bool]
    ) -> None:
        self._content = content
        self._delays = delays
        self._puts_off = puts_off
        self._chunks: AsyncIterator[bytes] = content.iter_any()
        self._rest = b""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all that aiohttp does with it
        return getattr(self._content, name)

    def iter_chunked(self, size: int) -> _Lines:
        self._chunks = self._content.iter_chunked(size)
        return self

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> bytes:
        lines = await self._next()
        if not lines:
            raise StopAsyncIteration
        error = _ERROR.search(lines)
        if error is None or error.start():
            self._delays = iter(ErrorDelays())
        if error and self._puts_off(error[0].decode(errors="replace"), self._delays):
            return lines[: error.start()] + _UNKNOWN_ERROR
        return lines

    async def _next(self) -> bytes:
        """Whole lines; what is left at the end; then nothing."""
        async for chunk in self._chunks:
            lines, newline, self._rest = (self._rest + chunk).rpartition(b"\n")
            if newline:
                return lines + newline
        left, self._rest = self._rest, b""
        return left


class Pace:
    """Middleware of kopf's HTTP client: sends nothing while that is in vain, and spreads the beginnings of watches.

    It keeps from kopf the answers that kopf would die of although they pass, while there is patience. Its requests are
    counted as those of our own client are; a watch is one when it begins. A watch begins when all that it follows was
    listed: once `watches` have begun, `listed` is called.
    """

    def __init__(self, cluster: Cluster, watches: int, listed: Callable[[], None]) -> None:
        self._cluster = cluster
        self._due: dict[str, float] = {}  # path -> when its next watch may begin
        # By path, what is left of the delays for errors in a row: those since a watch brought anything else, or ended.
        self._delays: dict[str, Iterator[float]] = {}
        self._watches = watches
        self._listed = listed

    async def __call__(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        """Send a request when its time has come, and return an answer that kopf survives, as aiohttp wants it."""
        waited = 0.0
        while self._cluster.is_away and waited < _AWAY_SECONDS:
            await asyncio.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS
        path = request.url.path
        if not request.url.query.get("watch"):
            return await self._answer(request, send, self._delays.setdefault(path, iter(ErrorDelays())))
        await self._turn(path)
        delays = self._delays.pop(path, iter(ErrorDelays()))
        answer = await self._answer(request, send, delays)
        if answer.ok:
            lines = _Lines(answer.content, delays, partial(self._puts_off, path))
            answer.content = lines  # type: ignore[assignment]  # there is no way to make a StreamReader of another one
        return answer

    async def _turn(self, path: str) -> None:
        """Wait until a watch may begin."""
        now, known = asyncio.get_running_loop().time(), len(self._due)
        due = max(now, self._due.get(path, now))
        self._due[path] = due + _WATCH_SECONDS
        if known < len(self._due) == self._watches:
            self._listed()
        await asyncio.sleep(due - now)

    def _puts_off(self, path: str, error: str, delays: Iterator[float]) -> bool:
        """Whether a watch that told of an error is begun anew, and if so, not at once."""
        delay = next(delays, None)
        if delay is None:
            return False
        log.warning("%s is listed and watched anew: %s", path, error[:_ERROR_LENGTH])
        self._delays[path] = delays
        self._due[path] = max(self._due[path], asyncio.get_running_loop().time() + delay)
        return True

    async def _answer(self, request: ClientRequest, send: ClientHandlerType, delays: Iterator[float]) -> ClientResponse:
        answer = await self._counted(request, send)
        while answer.status == _UNKNOWN and (delay := next(delays, None)) is not None:
            answer.release()
            log.warning("%s is asked for as a whole: where that was to go on is no longer known", request.url.path)
            await asyncio.sleep(delay)
            request.url = request.url.without_query_params(*_GOES_ON_FROM)
            answer = await self._counted(request, send)
        if answer.status == _TOO_LATE:
            answer.status = _GATEWAY_TOO_LATE
        return answer

    async def _counted(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        verb, resource = verb_and_resource(request.method, request.url.path)
        began, code = time.monotonic(), "error"
        try:
            answer = await send(request)
            code = str(answer.status)
        finally:
            if self._cluster.on_call:
                verb = "watch" if request.url.query.get("watch") else verb
                self._cluster.on_call(verb, resource, code, time.monotonic() - began)
        return answer
