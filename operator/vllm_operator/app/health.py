"""Answers for the kubelet and Prometheus: alive as long as work goes on, ready once the cluster is watched, metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from vllm_operator.app.pulse import LATE_SECONDS
from vllm_operator.app.workers import PASS_SECONDS
from vllm_operator.errors import UsageError
from vllm_operator.naming import Key
from vllm_operator.telemetry import CONTENT_TYPE
from vllm_operator.workqueue import WorkQueue

# A pass that outlives its own time limit twice is stuck. So is a queue from which nobody takes a key for as long; that
# a key waits says nothing, because thousands at once have to wait for each other.
_LONGEST_RUN = 2 * PASS_SECONDS


def ailment(queue: WorkQueue[Key], late: float = 0.0) -> str:
    """Why the process should be restarted; empty while it is well.

    `late` is by how many seconds the event loop was late recently. While it is blocked it does not answer at all.
    """
    if queue.longest_run > _LONGEST_RUN:
        return f"a pass has been running for {queue.longest_run:.0f} s"
    if queue.standstill > _LONGEST_RUN:
        return f"resources have been waiting for {queue.standstill:.0f} s, and none is taken up"
    if late > LATE_SECONDS:
        return f"the event loop stood still for {late:.1f} s"
    return ""


@dataclass(frozen=True, slots=True)
class Answers:
    """What there is to say: why the process should be restarted, why it is not ready (empty: it is), its metrics."""

    ailment: Callable[[], str]
    unready: Callable[[], str]
    metrics: Callable[[], bytes]


def _verdict(problem: Callable[[], str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        found = problem()
        return _closing(web.Response(status=503 if found else 200, text=found or "ok"))

    return handle


def _page(metrics: Callable[[], bytes]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        return _closing(web.Response(body=metrics(), headers={"Content-Type": CONTENT_TYPE}))

    return handle


def _closing(response: web.Response) -> web.Response:
    response.force_close()  # an idle connection would hold up the end of the process
    return response


@asynccontextmanager
async def serve_health(port: int, answers: Answers) -> AsyncIterator[None]:
    """Serve /healthz, /readyz and /metrics on every address; nothing on port 0.

    Raises UsageError when the port is taken.
    """
    if not port:
        yield
        return
    app = web.Application()
    app.router.add_get("/healthz", _verdict(answers.ailment))
    app.router.add_get("/readyz", _verdict(answers.unready))
    app.router.add_get("/metrics", _page(answers.metrics))
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
