"""Several operators that stand for one Lease, told apart in the audit log by the user agents of their requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, groupby
from pathlib import Path

from cluster.support.arena import Arena
from cluster.support.service import Service
from localcluster import probe
from localcluster.audit import AuditEvent
from localcluster.wait import wait_for
from operator_process import NAMESPACE, USER, OperatorProcess
from vllm_operator.kinds import LEASE

SHORT: Mapping[str, str] = {
    "lease_duration_seconds": "6",
    "lease_renew_seconds": "4",
    "lease_retry_seconds": "1",
}
_LOOK_SECONDS = 0.05
_EDIT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Rival:
    """One operator."""

    process: OperatorProcess
    identity: str

    def status(self, path: str) -> int | None:
        """Return the HTTP code that it answers with."""
        return probe.status_of(f"http://127.0.0.1:{self.process.port}{path}")


@dataclass(slots=True)
class Rivals:
    """Operators of one Lease and one namespace in an arena, and what they did since this object was made."""

    arena: Arena
    namespace: str
    settings: Mapping[str, str]
    since: int = -1
    members: list[Rival] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.since = self.arena.cluster.audit_mark()

    def start(self, kubeconfig: Path | None = None) -> Rival:
        """Start one more and wait until it is ready."""
        log = self.arena.cluster.folder / f"rival-{self.namespace}-{len(self.members)}.log"
        settings = {"leader_elect": "true", "lease_namespace": NAMESPACE, "lease_name": "vllm-operator"}
        process = OperatorProcess(
            kubeconfig or self.arena.account, log, {**settings, "namespace": self.namespace, **self.settings}
        )
        process.start()
        process.wait_ready()
        said = re.search(r"standing for election as (\S+)", process.tail(lines=1000))
        assert said, process.tail()
        self.members.append(Rival(process, said[1]))
        return self.members[-1]

    def holder(self) -> str:
        """Return who holds the Lease; empty for nobody."""
        lease = self.arena.api.get(LEASE, NAMESPACE, "vllm-operator")
        return str((lease or {"spec": {}})["spec"].get("holderIdentity") or "")

    def wait_leader(self, rival: Rival, timeout: float = 30.0) -> None:
        """Wait until that one leads and works."""
        wait_for(lambda: self.holder() == rival.identity, timeout, f"{rival.identity} leads", _LOOK_SECONDS)

    def requests(self, rival: Rival) -> list[AuditEvent]:
        """Return what one of them asked for, oldest first; watches and what kopf lists are not among it."""
        events = self.arena.cluster.audit_events(USER, self.since)
        agent = f"vllm-operator/{rival.identity}"
        found = [one for one in events if one.user_agent == agent and one.stage == "ResponseComplete"]
        return sorted(found, key=lambda one: one.received)

    def writes(self, rival: Rival) -> list[AuditEvent]:
        """Return its writes, but for those to the Lease."""
        return [one for one in self.requests(rival) if one.is_write and one.resource != LEASE.plural]

    def terms(self, rival: Rival) -> list[AuditEvent]:
        """Return its successful writes to the Lease."""
        return [one for one in self.requests(rival) if one.is_write and one.resource == LEASE.plural and one.code < 300]

    def reigns(self) -> list[str]:
        """Return who wrote, in turn; who wrote at two separate times is there twice."""
        written = sorted((one.received, member.identity) for member in self.members for one in self.writes(member))
        return [identity for identity, _ in groupby(identity for _, identity in written)]

    def end(self) -> None:
        """Kill those that still run."""
        for member in self.members:
            if member.process.alive:
                member.process.kill()


def at(event: AuditEvent) -> float:
    """Return when the API server received a request, in seconds since the epoch."""
    return datetime.strptime(event.received, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()


@contextmanager
def busy(services: list[Service], pause: float = _EDIT_SECONDS) -> Iterator[None]:
    """Change services all the time, so that whoever leads has something to write."""
    stop = threading.Event()
    ports = count(8001)

    def edit() -> None:
        while not stop.wait(pause):
            for service in services:
                service.edit({"service": {"port": next(ports) % 20_000 + 1}})

    editing = threading.Thread(target=edit, daemon=True)
    editing.start()
    try:
        yield
    finally:
        stop.set()
        editing.join()


def soon(what: Callable[[], object], message: str, timeout: float = 120.0) -> None:
    """Wait with short pauses: what is waited for is measured."""
    wait_for(what, timeout, message, _LOOK_SECONDS)
