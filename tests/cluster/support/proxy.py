"""An HTTP proxy in front of the API server that fails as a test says: by method, path, kind of request, or by luck."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

from operator_process import free_port

_SEED = 20260101
_OWN_HEADERS = {"Host", "Content-Length", "Transfer-Encoding", "Accept-Encoding", "Connection"}
_LONGER_THAN_ANY_WATCH = aiohttp.ClientTimeout(total=3600)

PassOn = Callable[[web.Request], Awaitable[web.StreamResponse]]
Act = Callable[[web.Request, PassOn], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request: when it came (monotonic clock, in seconds), what it asked, and whether a rule met it."""

    at: float
    method: str
    path: str
    is_watch: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of some requests: those of a method and a path (regular expressions), watches or others or both."""

    act: Act
    method: str = ""
    path: str = ""
    watches: bool | None = None
    fraction: float = 1.0

    def meets(self, request: web.Request, luck: random.Random) -> bool:
        return (
            re.search(self.method, request.method) is not None
            and re.search(self.path, request.path) is not None
            and self.watches in (None, _is_watch(request))
            and luck.random() < self.fraction
        )


def _is_watch(request: web.Request) -> bool:
    return request.query.get("watch") == "true"


# --- what a rule may do


def answers(code: int, **headers: str) -> Act:
    """Answer with a Status of that code, as an API server does; `Retry_After="5"` is a header."""

    async def act(request: web.Request, _: PassOn) -> web.StreamResponse:
        reason = HTTPStatus(code).phrase.replace(" ", "")
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
        text = json.dumps(status | {"message": f"{request.method} {request.path}: failed on purpose"})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, text=text, content_type="application/json", headers=named)

    return act


def tells_of_error(code: int) -> Act:
    """Begin a watch that says nothing but an ERROR event of that code."""

    async def act(_: web.Request, __: PassOn) -> web.StreamResponse:
        status = {"kind": "Status", "code": code, "message": "failed on purpose"}
        return web.Response(
            text=json.dumps({"type": "ERROR", "object": status}) + "\n", content_type="application/json"
        )

    return act


async def hangs(_: web.Request, __: PassOn) -> web.StreamResponse:
    """Take the request and never answer."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def slams(request: web.Request, _: PassOn) -> web.StreamResponse:
    """Cut the connection without an answer; unlike a connection that is refused, it can be counted."""
    _hang_up(request)
    return web.Response()


async def ends_at_once(_: web.Request, __: PassOn) -> web.StreamResponse:
    """Answer with nothing: a watch that is over when it begins."""
    return web.Response(content_type="application/json")


async def cuts_the_answer(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
    """Carry the request out and cut the connection in the midst of the answer."""
    request["cut"] = True
    return await pass_on(request)


async def loses_the_answer(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
    """Carry the request out and cut the connection before the answer."""
    request["lost"] = True
    return await pass_on(request)


def delays(seconds: float) -> Act:
    """Pass the request on later."""

    async def act(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await pass_on(request)

    return act


# --- the proxy


@dataclass
class Proxy:
    """Speaks plain HTTP to whoever uses `kubeconfig`, and passes on to the API server whatever no rule meets."""

    kubeconfig: Path
    server: str
    context: ssl.SSLContext
    port: int
    requests: list[Seen] = field(default_factory=list)
    rules: tuple[Rule, ...] = ()
    _luck: random.Random = field(default_factory=lambda: random.Random(_SEED))  # noqa: S311 - the same in every run
    _answering: set[asyncio.Task[Any]] = field(default_factory=set)
    _thawed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def failing(self, *rules: Rule) -> Iterator[None]:
        """Let these rules hold meanwhile, for requests that begin meanwhile."""
        before, self.rules = self.rules, (*self.rules, *rules)
        try:
            yield
        finally:
            self.rules = before
            self.cut()  # what hangs would hang for good

    def cut(self) -> None:
        """Cut every connection on which an answer is under way, watches among them."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._answering])

    def freeze(self) -> None:
        """Keep every answer that is under way, so that watches fall silent without an end."""
        self._loop.call_soon_threadsafe(self._thawed.clear)

    def thaw(self) -> None:
        """Let kept answers go on."""
        self._loop.call_soon_threadsafe(self._thawed.set)

    def since(self, at: float) -> list[Seen]:
        """Return the requests that came after a moment of the monotonic clock."""
        return [one for one in tuple(self.requests) if one.at >= at]

    # --- in the thread of the loop

    async def run(self, started: threading.Event) -> None:
        """Serve until the thread's loop is stopped."""
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._thawed.set()
        connector = aiohttp.TCPConnector(ssl=self.context, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=_LONGER_THAN_ANY_WATCH) as self._session:
            app = web.Application(client_max_size=64 * 2**20)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            self._site = web.TCPSite(runner, "127.0.0.1", self.port)
            await self._site.start()
            started.set()
            await self._stopped.wait()
            await runner.cleanup()

    def stop(self) -> None:
        """End the server; callable from any thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        rule = next((one for one in self.rules if one.meets(request, self._luck)), None)
        seen = Seen(time.monotonic(), request.method, request.path, _is_watch(request), rule is not None)
        self.requests.append(seen)
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            return await (rule.act(request, self._pass_on) if rule else self._pass_on(request))
        except asyncio.CancelledError:
            _hang_up(request)
            raise
        except aiohttp.ClientError:
            _hang_up(request)
            return web.Response(status=HTTPStatus.BAD_GATEWAY)
        finally:
            self._answering.discard(task)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name not in _OWN_HEADERS}
        headers["Accept-Encoding"] = "identity"  # so that nothing is packed that would have to be unpacked
        url, body = URL(f"{self.server}{request.raw_path}", encoded=True), await request.read()
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            if request.get("lost"):
                await answer.read()
                _hang_up(request)
            response = web.StreamResponse(status=answer.status)
            for name in ("Content-Type", "Retry-After"):
                if name in answer.headers:
                    response.headers[name] = answer.headers[name]
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await self._thawed.wait()
                if request.get("cut"):
                    await response.write(chunk[: len(chunk) // 2])
                    _hang_up(request)
                with suppress(ConnectionError):
                    await response.write(chunk)
            return response


def _hang_up(request: web.Request) -> None:
    """Cut the connection without another word."""
    if request.transport:
        request.transport.abort()


def _context(cluster: dict[str, Any]) -> ssl.SSLContext:
    if data := cluster.get("certificate-authority-data"):
        return ssl.create_default_context(cadata=base64.b64decode(data).decode())
    return ssl.create_default_context(cafile=cluster["certificate-authority"])


@contextmanager
def proxied(kubeconfig: Path, name: str) -> Iterator[Proxy]:
    """A proxy in front of a kubeconfig's API server; its own kubeconfig lies beside, with `name` behind."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, port = config["clusters"][0]["cluster"], free_port()
    server, context = cluster["server"], _context(cluster)
    config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
    path = kubeconfig.with_name(f"{kubeconfig.name}.{name}")
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    proxy, started = Proxy(path, server, context, port), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.run(started)), daemon=True)
    thread.start()
    assert started.wait(10), "the proxy does not start"
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(10)
