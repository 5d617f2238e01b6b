"""What looks at the process from beside: counts, last results, the pulse of its loop, and answers for who asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from vllm_operator import telemetry as metrics
from vllm_operator.app.dump import dumping_on_signals
from vllm_operator.app.health import Answers, ailment, serve_health
from vllm_operator.app.ledger import Ledger
from vllm_operator.app.pulse import Pulse
from vllm_operator.kinds import NODE, POD, RESOURCE, Kind
from vllm_operator.naming import Key
from vllm_operator.telemetry import Telemetry
from vllm_operator.watch import Body, Listener
from vllm_operator.workqueue import WorkQueue

# A late beat speaks against the process for as long: two probes of the kubelet, which asks six times.
_LATELY = 20.0


class Instruments:
    """The instruments of one process, around its queue."""

    def __init__(self, queue: WorkQueue[Key], telemetry: Telemetry) -> None:
        self.ledger = Ledger(telemetry)
        self._queue = queue
        self._telemetry = telemetry
        self._pulse = Pulse(telemetry.lagged)
        telemetry.read(metrics.QUEUE_DEPTH, lambda: len(queue))
        telemetry.read(metrics.QUEUE_AGE, lambda: queue.oldest_age)
        telemetry.read(metrics.RUNNING, lambda: queue.running)
        telemetry.read(metrics.LONGEST_RUN, lambda: queue.longest_run)
        telemetry.read(metrics.LAG, self._pulse.worst)

    @asynccontextmanager
    async def serving(self, port: int, is_ready: Callable[[], bool], leads: Callable[[], bool]) -> AsyncIterator[None]:
        """Answer the kubelet, Prometheus and signals meanwhile. Raises UsageError when the port is taken."""
        self._telemetry.read(metrics.LEADER, leads)
        answers = Answers(
            ailment=lambda: ailment(self._queue, self._pulse.worst(_LATELY)),
            unready=lambda: "" if is_ready() else "not watching yet",
            metrics=self._telemetry.page,
        )
        beating = asyncio.create_task(self._pulse.beat(), name="pulse")
        try:
            with dumping_on_signals(self._queue, self.ledger):
                async with serve_health(port, answers):
                    yield
        finally:
            beating.cancel()

    def counted(self, listener: Listener) -> Listener:
        """A listener that hears the same, while what it hears is counted."""
        return _Counted(listener, self._telemetry.saw)


class _Counted:
    def __init__(self, listener: Listener, count: Callable[[Kind], None]) -> None:
        self._listener = listener
        self._count = count

    def resource_seen(self, event: str | None, body: Body) -> None:
        self._count(RESOURCE)
        self._listener.resource_seen(event, body)

    def child_seen(self, kind: Kind, event: str | None, body: Body) -> None:
        self._count(kind)
        self._listener.child_seen(kind, event, body)

    def pod_seen(self, event: str | None, body: Body) -> None:
        self._count(POD)
        self._listener.pod_seen(event, body)

    def node_seen(self, event: str | None, body: Body) -> None:
        self._count(NODE)
        self._listener.node_seen(event, body)

    def all_listed(self) -> None:
        self._listener.all_listed()
