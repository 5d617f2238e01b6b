"""One resource, its user, strangers, and one operator after the other."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from localcluster.nodes import fleet
from simulated.connection import Connection, Faults, Tally
from simulated.server import Object, Path, Server
from virtualtime import VirtualTimeLoop
from vllm_operator import kinds
from vllm_operator.api import API_VERSION, KIND
from vllm_operator.app.workers import Workers
from vllm_operator.errors import OperatorError
from vllm_operator.kinds import Kind
from vllm_operator.listener import Listener
from vllm_operator.naming import Key
from vllm_operator.plan.types import Defaults
from vllm_operator.reconciler import Reconciler
from vllm_operator.workqueue import WorkQueue

NAME = "chat"
RESYNC_SECONDS = 600.0
_SEED = 20260101
_WORKERS = 2
# A resync that fails is repeated after half a minute; what waits longest between two looks is a refusal, 300 s.
SETTLED_SECONDS = 2 * RESYNC_SECONDS + 2 * 300.0


@functools.cache
def _nodes() -> Sequence[Object]:
    return fleet()


class Operator:
    """The real reconciler, queue, workers and listener, from a fresh start until it is killed."""

    def __init__(self, server: Server, faults: Faults, tally: Tally) -> None:
        self._server = server
        connection = Connection(server, faults, tally)
        self._reconciler = Reconciler(connection, Defaults(), connection)
        self._queue: WorkQueue[Key] = WorkQueue(jitter=random.Random(_SEED).random)  # noqa: S311 - the same every time
        self._listener: Listener | None = None
        self._workers: Workers | None = None
        self._unwatch: Callable[[], None] | None = None
        self._life = asyncio.get_running_loop().create_task(self._live())
        self.sees = True

    async def _live(self) -> None:
        await self._insist(self._reconciler.start, 1.0)
        self._workers = Workers(self._reconciler, self._queue, _WORKERS)
        self._listener = self._reconciler.listener(self._queue)
        self.look()
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            await self._insist(lambda: self._reconciler.resync(self._queue), 30.0)

    @staticmethod
    async def _insist(work: Callable[[], Awaitable[None]], pause: float) -> None:
        """Do it until it works."""
        while True:
            try:
                return await work()
            except OperatorError:
                await asyncio.sleep(pause)

    def look(self) -> None:
        """Watch, if there is sight; what vanished before is not told."""
        if self.sees and self._listener and self._unwatch is None:
            self._unwatch = self._server.watch(self._see)
            self._listener.all_listed()

    def look_away(self) -> None:
        """Miss what happens from now on."""
        if self._unwatch:
            self._unwatch()
        self._unwatch = None

    def _see(self, event: str | None, kind: Kind, body: Object) -> None:
        assert self._listener is not None
        if kind is kinds.RESOURCE:
            self._listener.resource_seen(event, body)
        elif kind is kinds.NODE:
            self._listener.node_seen(event, body)
        else:
            self._listener.child_seen(kind, event, body)

    async def kill(self) -> None:
        """End at once, wherever it is; what it has sent already is carried out nevertheless."""
        self.look_away()
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)
        if self._workers:
            await self._workers.drain(0)
        await self._reconciler.close()


class World:
    """A server, an operator, and all that may happen to them. A context manager: it has a loop of its own."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.server = Server()
        self.faults = Faults()
        self.tally = Tally()
        self.spec: Mapping[str, Any] | None = None
        self._sees = True
        self._run(self._begin())

    async def _begin(self) -> None:
        for node in _nodes():
            self.server.apply(node, "kubelet")
        self._operator = Operator(self.server, self.faults, self.tally)

    def _run(self, work: Any) -> Any:  # noqa: ANN401 - a coroutine
        return self._runner.run(work)

    def close(self) -> None:
        self._run(self._operator.kill())
        self._runner.close()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._run(asyncio.sleep(seconds))

    def _do(self, act: Callable[[], object]) -> None:
        async def done() -> None:
            act()

        self._run(done())

    # --- demands

    def ask(self, spec: Mapping[str, Any]) -> None:
        """Create the resource, or give it this spec."""
        self.ask_in_a_pass(spec)
        self.interject()

    def ask_in_a_pass(self, spec: Mapping[str, Any]) -> None:
        """As `ask`, but right before the operator writes its next status; it replaces what was to be asked then."""
        self.spec = spec
        manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": NAME}, "spec": dict(spec)}
        self.server.interjections = [lambda: self.server.apply(manifest, "user")]

    def interject(self) -> None:
        """What was to happen in a pass happens now."""
        self._do(self.server.interject)

    def delete(self) -> None:
        self.spec, self.server.interjections = None, []
        self._do(lambda: self.server.delete(kinds.RESOURCE, NAME))

    def spoil(self, kind: Kind, path: Path, value: object) -> None:
        """A stranger changes a field of every child of a kind."""
        for name in self._names(kind):
            self._do(lambda name=name: self.server.spoil(kind, name, path, value))  # type: ignore[misc]

    def remove(self, kind: Kind) -> None:
        """A stranger deletes every child of a kind."""
        for name in self._names(kind):
            self._do(lambda name=name: self.server.delete(kind, name))  # type: ignore[misc]

    def refuse(self, kind: Kind) -> None:
        """Somebody's webhook refuses whatever is applied of a kind."""
        self.server.refused.add(kind)

    def admit(self) -> None:
        self.server.refused.clear()

    def _names(self, kind: Kind) -> list[str]:
        return [one["metadata"]["name"] for one in self.server.children() if one["kind"] == kind.kind]

    # --- disturbances

    def lose(self, seconds: float) -> None:
        """Every request fails for so long, from now on."""

        async def away() -> None:
            self.faults.away_until = asyncio.get_running_loop().time() + seconds

        self._run(away())

    def look_away(self) -> None:
        """The watch breaks; what happens now is missed."""
        self._sees = self._operator.sees = False
        self._do(self._operator.look_away)

    def look(self) -> None:
        """The watch begins anew with a listing."""
        self._sees = self._operator.sees = True
        self._do(self._operator.look)

    def replace(self) -> None:
        """The operator dies, and another one that knows nothing takes over."""

        async def successor() -> None:
            await self._operator.kill()
            self._operator = Operator(self.server, self.faults, self.tally)
            self._operator.sees = self._sees

        self._run(successor())

    def heal(self) -> None:
        """Nothing fails from now on."""
        self.faults.pending.clear()
        self.faults.away_until = 0.0
        self.look()

    # --- outcome

    def outcome(self) -> dict[str, Object]:
        """What exists, but for what differs between two lives of the same thing: uids, versions, times, owners."""
        children = {f"{one['kind']} {one['metadata']['name']}": _content(one) for one in self.server.children()}
        resource = self.server.get(kinds.RESOURCE, NAME)
        return {**children, **({"status": _status(resource)} if resource else {})}


def _content(one: Object) -> Object:
    kept = {key: one["metadata"][key] for key in ("labels", "annotations") if key in one["metadata"]}
    status = {key: value for key, value in (one.get("status") or {}).items() if key != "observedGeneration"}
    return {**one, "metadata": kept, "status": status}


def _status(resource: Object) -> Object:
    """The status, with `current` for the generation if it is that of the spec, and without times."""
    generation = resource["metadata"]["generation"]

    def plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(value, dict):
            return {
                key: ("current" if below == generation else "old") if key == "observedGeneration" else plain(below)
                for key, below in value.items()
                if key != "lastTransitionTime"
            }
        return [plain(one) for one in value] if isinstance(value, list) else value

    found: Object = plain(resource.get("status") or {})
    return found
