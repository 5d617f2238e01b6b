"""From a configuration to a running operator, and to its end."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from vllm_operator.app import workers
from vllm_operator.app.instruments import Instruments
from vllm_operator.app.leadership import Leadership, candidacy
from vllm_operator.app.preflight import find_scope
from vllm_operator.app.workers import Workers
from vllm_operator.cluster import Cluster
from vllm_operator.config import OperatorConfig
from vllm_operator.errors import Blocked, OperatorError, Transient
from vllm_operator.lease import OUTAGE_SECONDS
from vllm_operator.naming import Key
from vllm_operator.plan.types import Defaults
from vllm_operator.reconciler import Reconciler as RealReconciler
from vllm_operator.recorder import Recorder
from vllm_operator.scope import Scope
from vllm_operator.telemetry import Telemetry
from vllm_operator.watch import Listener, watch
from vllm_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

DRAIN_SECONDS = 20.0  # and the lease is given back, below a pod's grace period of 30; the watch ends meanwhile
# How long a start waits for the CRD and for rights, which somebody forgot.
_START_SECONDS = 60.0
_START_PAUSE = 1.0
_RESYNC_RETRY_SECONDS = 30.0


class Reconciler(workers.Reconciler, Protocol):
    """What a process needs of `reconciler.Reconciler`."""

    async def start(self, scope: Scope) -> None:
        """Learn what every pass needs."""

    def listener(self, queue: WorkQueue[Key]) -> Listener:
        """Whom the watch tells what it sees."""

    async def resync(self, queue: WorkQueue[Key]) -> None:
        """Heal what the watch missed, and look at every resource."""

    async def close(self) -> None:
        """End what runs beside the passes."""


Make = Callable[[Cluster, Defaults, Recorder, Telemetry], Reconciler]


@dataclass(slots=True)
class _Process:
    """The parts of a running operator."""

    config: OperatorConfig
    cluster: Cluster
    reconciler: Reconciler
    queue: WorkQueue[Key]
    instruments: Instruments
    leadership: Leadership
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    watching: asyncio.Event = field(default_factory=asyncio.Event)
    at_rest: bool = True  # nothing writes any more

    def is_ready(self) -> bool:
        """A follower is ready as well: to take over."""
        return (self.watching.is_set() or self.leadership.follows) and not self.stop.is_set()

    async def serve(self) -> int:
        """Run until a signal; the exit code."""
        self._on_signals()
        async with self.instruments.serving(self.config.health_port, self.is_ready, lambda: self.leadership.is_leader):
            try:
                code = await self._lead()
            finally:
                await self.leadership.end(release=self.at_rest)
        return 1 if self.leadership.lost else code

    async def _lead(self) -> int:
        """Get everything ready that can be, wait to become the leader, and run."""
        scope = await self._prepare(leads=not self.leadership.elects)
        if scope and self.leadership.elects:  # what is there now may not be what was when another began to lead
            scope = await self._prepare(leads=True) if await self.leadership.gain(self.stop) else None
        if scope is None:
            return 0 if self.stop.is_set() else 1
        return await self._run(scope)

    def _on_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop.set)

    async def _prepare(self, *, leads: bool) -> Scope | None:
        """Wait a minute for the CRD and ten for the API server; None when they do not come, or a signal does."""
        began = asyncio.get_running_loop().time()
        while not self.stop.is_set():
            try:
                return await self._scope(leads=leads)
            except (Transient, Blocked) as error:
                patience = OUTAGE_SECONDS if isinstance(error, Transient) else _START_SECONDS
                if asyncio.get_running_loop().time() - began >= patience:
                    log.error("cannot start: %s", error)  # noqa: TRY400 - the sentence says it all
                    return None
                log.warning("not started yet: %s", error)
            await _wait(self.stop, _START_PAUSE)
        return None

    async def _scope(self, *, leads: bool) -> Scope:
        scope = await find_scope(self.cluster, self.config.namespace)
        if leads:
            await self.reconciler.start(scope)
        return scope

    async def _run(self, scope: Scope) -> int:
        working = Workers(self.reconciler, self.queue, self.config.workers, self.instruments.ledger)
        chores: list[asyncio.Task[object]] = [
            asyncio.create_task(self._resync(), name="resync"),
            asyncio.create_task(self._take_signals_back(), name="signals"),
        ]
        log.info("watching %s with %d workers", scope, self.config.workers)
        watching = asyncio.create_task(self._watch(scope), name="watch")
        chores.append(asyncio.create_task(self.stop.wait(), name="stop"))
        await asyncio.wait((watching, chores[-1]), return_when=asyncio.FIRST_COMPLETED)
        self.stop.set()  # kopf may have taken the signal
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        self.at_rest = await working.drain(0.0 if self.leadership.lost else DRAIN_SECONDS)
        await self.leadership.end(release=self.at_rest)  # nobody has to wait for the watch to end
        code = await watching
        await self.reconciler.close()
        log.info("stopped" if self.at_rest else "stopped; passes that were still running were cut short")
        return code

    async def _watch(self, scope: Scope) -> int:
        listener = self.instruments.counted(self.reconciler.listener(self.queue))
        try:
            await watch(listener, self.cluster, scope, self.stop, self.watching)
        except Exception:
            log.exception("the watch failed")
            return 1
        return 0

    async def _take_signals_back(self) -> None:
        """Kopf installs signal handlers of its own when it starts, which would arm its timer for a SIGKILL."""
        await self.watching.wait()
        self._on_signals()

    async def _resync(self) -> None:
        pause = self._period()
        while True:
            await asyncio.sleep(pause)
            healed = await self._resync_once()
            pause = self._period() if healed else min(self._period(), _RESYNC_RETRY_SECONDS)

    def _period(self) -> float:
        return self.config.resync_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load

    async def _resync_once(self) -> bool:
        try:
            await self.reconciler.resync(self.queue)
        except OperatorError as error:
            log.warning("resync failed: %s", error)
            return False
        except Exception:
            log.exception("resync failed")
            return False
        return True


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


async def run(config: OperatorConfig, make: Make = RealReconciler) -> int:
    """Run the operator until SIGTERM or SIGINT; returns the exit code.

    0 after a signal; 1 when the CRD stays away for a minute or the API server for ten, the watch cannot be healed, or
    another operator leads: the process then ends so that its supervisor starts it afresh. Raises UsageError
    when there is no usable kubeconfig, the health port is taken, or it is unknown who else there is to elect from.
    """
    telemetry = Telemetry()
    async with candidacy(config, telemetry.called) as leadership:
        return await _run(config, make, leadership, telemetry)


async def _run(config: OperatorConfig, make: Make, leadership: Leadership, telemetry: Telemetry) -> int:
    connecting = Cluster(
        kubeconfig=config.kubeconfig,
        context=config.context,
        connections=config.workers + 4,
        writes_per_second=config.writes_per_second,
        burst=config.burst,
        author=leadership.author(),
    )
    async with connecting as cluster:
        defaults = config.defaults()
        for row in defaults.tables.bad:
            log.error("%s: %s", config.tables, row)
        queue = WorkQueue[Key]()
        cluster.on_call = telemetry.called
        reconciler = make(cluster, defaults, Recorder(cluster), telemetry)
        return await _Process(config, cluster, reconciler, queue, Instruments(queue, telemetry), leadership).serve()
