"""Answers for the kubelet: alive as long as work goes on, ready once the cluster is watched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from vllm_operator.app.workers import PASS_SECONDS
from vllm_operator.errors import UsageError
from vllm_operator.naming import Key
from vllm_operator.workqueue import WorkQueue

# A pass that outlives its own time limit twice is stuck; so is a queue whose first key waits this long.
_LONGEST_RUN = 2 * PASS_SECONDS
_LONGEST_WAIT = 300.0


def ailment(queue: WorkQueue[Key]) -> str:
    """Why the process should be restarted; empty while it is well. A blocked event loop says it by not answering."""
    if queue.longest_run > _LONGEST_RUN:
        return f"a pass has been running for {queue.longest_run:.0f} s"
    if queue.oldest_age > _LONGEST_WAIT:
        return f"a resource has been waiting for {queue.oldest_age:.0f} s"
    return ""


def _answer(problem: Callable[[], str]) -> Callable[[web.Request], object]:
    async def handle(_: web.Request) -> web.Response:
        found = problem()
        response = web.Response(status=503 if found else 200, text=found or "ok")
        response.force_close()  # an idle connection would hold up the end of the process
        return response

    return handle


@asynccontextmanager
async def serve_health(port: int, queue: WorkQueue[Key], is_ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Serve /healthz and /readyz on every address; nothing on port 0. Raises UsageError when the port is taken."""
    if not port:
        yield
        return
    app = web.Application()
    app.router.add_get("/healthz", _answer(lambda: ailment(queue)))  # type: ignore[arg-type]
    app.router.add_get("/readyz", _answer(lambda: "" if is_ready() else "not watching yet"))  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, port=port).start()
        except OSError as error:
            raise UsageError(f"--health-port={port}: cannot listen there: {error.strerror}.") from error
        yield
    finally:
        await runner.cleanup()
