"""One operator's way to the API server: slow, and failing as a test scripts it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from simulated.server import NAMESPACE, Object, Server
from vllm_operator import kinds
from vllm_operator.errors import Conflict, Gone, Transient
from vllm_operator.kinds import Kind
from vllm_operator.naming import FIELD_MANAGER

T = TypeVar("T")
Objects = list[Object]
_WAY_SECONDS = 0.005  # one way to the server
_TIMEOUT_SECONDS = 30.0
_LATE_SECONDS = 5.0


class Fault(Enum):
    """What becomes of one request."""

    ERROR = "answered with 500"
    CONFLICT = "answered with 409"
    LOST = "carried out, and the answer is lost"
    HANG = "never answered"
    LATE = "given up, and carried out seconds later"


@dataclass(slots=True)
class Faults:
    """What is to fail: the next requests, one after the other, and all of them until a moment."""

    pending: deque[Fault] = field(default_factory=deque)
    away_until: float = 0.0

    def next(self) -> Fault | None:
        """What becomes of a request that is sent now."""
        if asyncio.get_running_loop().time() < self.away_until:
            return Fault.ERROR
        return self.pending.popleft() if self.pending else None


@dataclass(slots=True)
class Tally:
    """What the operators wrote: every write that reached the server, and those that changed something."""

    requests: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


class Connection:
    """`ports.Api` for the operator, and `ports.Events`."""

    def __init__(self, server: Server, faults: Faults, tally: Tally) -> None:
        self._server = server
        self._faults = faults
        self._tally = tally
        self._under_way: set[asyncio.Task[object]] = set()

    # --- reading

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        assert namespace == NAMESPACE
        return await self._ask(lambda: self._server.get(kind, name))

    async def get_metadata(self, kind: Kind, namespace: str, name: str) -> Object | None:
        found = await self.get(kind, namespace, name)
        return {"metadata": found["metadata"]} if found else None

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Objects:
        assert kind in (kinds.NODE, kinds.POD), f"{kind} {namespace} {selector}"
        return await self._ask(lambda: self._server.list(kind))

    async def each(self, kind: Kind) -> AsyncIterator[Object]:
        for body in await self.list(kind):
            yield body

    async def names(self, kind: Kind, selector: str = "", namespace: str | None = None) -> set[tuple[str, str]]:
        assert bool(selector) == kind.namespaced
        assert namespace is None
        listed = await self._ask(lambda: self._server.list(kind))
        return {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in listed}

    async def serves(self, kind: Kind) -> bool:
        return await self._ask(lambda: not kind.optional)

    async def pod_log(self, namespace: str, pod: str, container: str, *, previous: bool, lines: int) -> str:
        raise Gone(f"{namespace}/{pod}: no pods here ({container}, {previous}, {lines})")

    async def events_about(self, namespace: str, uid: str) -> Objects:
        assert namespace == NAMESPACE
        assert uid
        return []

    # --- writing

    async def apply(
        self, manifest: Object, manager: str = FIELD_MANAGER, *, new: bool = False, dry_run: bool = False
    ) -> Object:
        assert not dry_run
        name = f"apply {manifest['kind']} {manifest['metadata']['name']}"
        return await self._ask(lambda: self._write(name, lambda: self._server.apply(manifest, manager, new=new)))

    async def apply_alone(self, manifest: Object) -> Object:
        return await self.apply(manifest)

    async def apply_status(self, namespace: str, name: str, status: Object) -> Object:
        assert namespace == NAMESPACE

        def report() -> Object:
            self._server.interject()
            return self._write("status", lambda: self._server.report(kinds.RESOURCE, name, status))

        return await self._ask(report)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> bool:
        assert namespace == NAMESPACE
        assert uid
        what = f"delete {kind} {name}"
        return await self._ask(lambda: self._write(what, lambda: self._server.delete(kind, name, uid)))

    async def record(self, resource: object, kind: str, reason: str, message: str) -> None:
        """Events are no part of what must converge."""

    # --- the way there and back

    def _write(self, what: str, act: Callable[[], T]) -> T:
        """Do it and count it."""
        self._tally.requests.append(what)
        before = self._server.version
        done = act()
        if self._server.version != before:
            self._tally.changes.append(what)
        return done

    async def _ask(self, act: Callable[[], T]) -> T:
        """Send a request. What has been sent is carried out, even when the operator dies before the answer."""
        task = asyncio.get_running_loop().create_task(self._carry(act, self._faults.next()))
        self._under_way.add(task)
        task.add_done_callback(self._arrived)
        return await asyncio.shield(task)

    def _arrived(self, task: asyncio.Task[object]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be left to look at it

    async def _carry(self, act: Callable[[], T], fault: Fault | None) -> T:
        await asyncio.sleep(_WAY_SECONDS)
        if fault is Fault.CONFLICT:
            raise Conflict("the object has been modified")
        if fault is Fault.HANG:
            await asyncio.sleep(_TIMEOUT_SECONDS)
        if fault is Fault.LATE:
            asyncio.get_running_loop().call_later(_LATE_SECONDS, _regardless, act)
        if fault in (Fault.ERROR, Fault.HANG, Fault.LATE):
            raise Transient(f"the request was {fault.value}")
        answer = act()
        if fault is Fault.LOST:
            raise Transient("the connection was cut")
        await asyncio.sleep(_WAY_SECONDS)
        return answer


def _regardless(act: Callable[[], object]) -> None:
    """Do what nobody waits for any more."""
    try:
        act()
    except Exception:  # noqa: BLE001 - a refusal that nobody hears
        return
