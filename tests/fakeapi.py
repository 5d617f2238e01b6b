"""An HTTP server in the place of an API server, for what no healthy one can be made to do."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeApi:
    """An HTTP server that answers everything in the way that a test sets."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = 0
        self.answer: Handler = self._nothing
        self.requests: list[web.Request] = []

    @staticmethod
    async def _nothing(_: web.Request) -> web.StreamResponse:
        return web.json_response({"metadata": {}, "items": None})

    @property
    def kubeconfig(self) -> str:
        """Path of a kubeconfig for it."""
        return kubeconfig(self._folder, self.port)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note a request and answer it."""
        self.requests.append(request)
        return await self.answer(request)

    def always(self, status: int, body: Any = None, **headers: str) -> None:  # noqa: ANN401 - JSON or text
        """Give every request this answer; a body that is no text becomes a Status."""
        text = body if isinstance(body, str) else json.dumps({"kind": "Status", "code": status, **(body or {})})

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, text=text, headers={k.replace("_", "-"): v for k, v in headers.items()})

        self.answer = answer


def kubeconfig(folder: Path, port: int) -> str:
    """Write a kubeconfig for a server on this machine that speaks plain HTTP; its path."""
    content = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "a", "user": {"token": "t"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return str(path)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[FakeApi]:
    """A server that runs meanwhile; `folder` takes its kubeconfig."""
    api = FakeApi(folder)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.port = runner.addresses[0][1]
    yield api
    await runner.cleanup()
