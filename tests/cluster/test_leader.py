"""Two operators, one acts: whatever ends it, the other takes over soon, and the two never write at once.

The API server's audit log says who wrote what and when; somebody changes resources all the while.
"""

from __future__ import annotations

import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from cluster.support import gate
from cluster.support.arena import Arena
from cluster.support.rivals import SHORT, Rival, Rivals, at, busy, soon
from cluster.support.service import Service
from cluster.support.traffic import Traffic
from localcluster.audit import AuditEvent
from vllm_operator.kinds import LEASE

Meet = Callable[..., Rivals]


@pytest.fixture
def meet(arena: Arena, arena_namespace: str) -> Iterator[Meet]:
    """Bring operators together that stand for a Lease which nobody holds."""
    met: list[Rivals] = []

    def make(**settings: str) -> Rivals:
        if arena.api.get(LEASE, "vllm-operator-system", "vllm-operator"):
            arena.api.delete(LEASE, "vllm-operator-system", "vllm-operator")
        met.append(Rivals(arena, arena_namespace, settings))
        return met[-1]

    yield make
    for rivals in met:
        rivals.end()
        for one in rivals.members:
            print(f"--- {one.identity} ---\n{one.process.tail(lines=40)}")  # noqa: T201 - shown when the test fails


@pytest.fixture
def services(arena: Arena, arena_namespace: str) -> list[Service]:
    return [Service.create(arena.api, arena_namespace, f"one-{number}") for number in range(3)]


def _wrote(rivals: Rivals, rival: Rival) -> None:
    """It leads and works off what comes in."""
    already = len(rivals.writes(rival))
    soon(lambda: len(rivals.writes(rival)) > already + 3, f"{rival.identity} writes", 60)


def _told(record_property: Callable[[str, object], None], what: str, seconds: float) -> None:
    record_property(what, round(seconds, 2))
    print(f"{what}: {seconds:.2f} s")  # noqa: T201 - a figure


def test_a_follower_is_ready_and_does_nothing(meet: Meet, services: list[Service]) -> None:
    rivals = meet(**SHORT)
    first = rivals.start()
    rivals.wait_leader(first)
    second = rivals.start()
    with busy(services):
        _wrote(rivals, first)
        rivals.since = rivals.arena.cluster.audit_mark()
        soon(lambda: len(rivals.requests(second)) > 5, "the follower looks at the Lease")
    assert {(one.verb, one.resource) for one in rivals.requests(second)} == {("get", "leases")}
    assert [second.status(path) for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
    assert (_is_leader(first), _is_leader(second)) == (1.0, 0.0)
    assert 'resource="leases"' in _page(second)
    assert rivals.reigns() == [first.identity]


def _page(rival: Rival) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{rival.process.port}/metrics", timeout=5) as answer:
        page: str = answer.read().decode()
    return page


def _is_leader(rival: Rival) -> float:
    said = re.search(r"^vllm_operator_is_leader (\S+)$", _page(rival), re.MULTILINE)
    assert said
    return float(said[1])


def test_a_leader_that_is_killed_is_followed_within_20_seconds(
    meet: Meet, services: list[Service], record_property: Callable[[str, object], None]
) -> None:
    """With the times that are the default."""
    rivals = meet()
    first = rivals.start()
    second = rivals.start()
    with busy(services):
        _wrote(rivals, first)
        killed = time.time()
        first.process.kill()
        soon(lambda: rivals.writes(second), "the other one writes", 40)
    took = at(rivals.terms(second)[0]) - killed
    _told(record_property, "SIGKILL to the other's Lease", took)
    _told(record_property, "SIGKILL to the other's first write", at(rivals.writes(second)[0]) - killed)
    assert 10 < took <= 20
    assert at(rivals.writes(second)[0]) - killed <= 20
    assert rivals.reigns() == [first.identity, second.identity]


def test_a_leader_that_is_asked_to_end_is_followed_within_3_seconds(
    meet: Meet, services: list[Service], record_property: Callable[[str, object], None]
) -> None:
    rivals = meet()
    first = rivals.start()
    second = rivals.start()
    with busy(services):
        _wrote(rivals, first)
        asked = time.time()
        first.process.process.send_signal(signal.SIGTERM)
        soon(lambda: rivals.writes(second), "the other one writes", 40)
    _told(record_property, "SIGTERM to the Lease given back", at(rivals.terms(first)[-1]) - asked)
    _told(record_property, "SIGTERM to the other's Lease", at(rivals.terms(second)[0]) - asked)
    _told(record_property, "SIGTERM to the other's first write", at(rivals.writes(second)[0]) - asked)
    assert at(rivals.terms(second)[0]) - asked <= 3
    assert first.process.stop() == 0
    assert rivals.reigns() == [first.identity, second.identity]


def test_a_leader_that_is_stopped_writes_nothing_when_it_goes_on(
    meet: Meet, services: list[Service], record_property: Callable[[str, object], None]
) -> None:
    rivals = meet(**SHORT)
    first = rivals.start()
    second = rivals.start()
    services += [Service.create(rivals.arena.api, rivals.namespace, f"more-{number}") for number in range(13)]
    with busy(services, pause=0.0):
        _wrote(rivals, first)
        first.process.process.send_signal(signal.SIGSTOP)
        soon(lambda: rivals.writes(second), "the other one writes")
        went_on = time.time()
        first.process.process.send_signal(signal.SIGCONT)
        assert first.process.process.wait(timeout=20) == 1
        _told(record_property, "SIGCONT to the end of the deposed leader", time.time() - went_on)
    assert "leading no more: The lease is lost" in first.process.tail()
    deposed = at(rivals.terms(second)[0])
    late = {f"{one.verb} {one.uri}": at(one) - deposed for one in rivals.writes(first) if at(one) > deposed}
    assert late == {}, f"the lease was the other's, who began to write at {went_on - deposed:.2f} s"
    assert rivals.reigns() == [first.identity, second.identity]


def test_a_leader_that_is_not_answered_is_silent_before_its_lease_is_over(
    meet: Meet, services: list[Service], record_property: Callable[[str, object], None]
) -> None:
    """Only the connection for the Lease, the second one, is dead: whatever else the leader sends arrives."""
    rivals = meet(**SHORT)
    with gate.opened(rivals.arena.account) as door:
        first = rivals.start(door.kubeconfig)
        second = rivals.start()
        with busy(services):
            _wrote(rivals, first)
            door.swallow(1)
            shut = time.time()
            assert first.process.process.wait(timeout=20) == 1
            ended = time.time() - shut
            soon(lambda: rivals.writes(second), "the other one writes")
    silent = at(rivals.writes(first)[-1]) - shut
    _told(record_property, "hang to the leader's last write", silent)
    _told(record_property, "hang to the end of the leader", ended)
    _told(record_property, "hang to the other's first write", at(rivals.writes(second)[0]) - shut)
    assert 1 < silent < float(SHORT["lease_renew_seconds"])
    assert "leading no more: The lease is lost: it could not be renewed for 4 s." in first.process.tail()
    assert rivals.reigns() == [first.identity, second.identity]


def _written(traffic: Traffic) -> list[AuditEvent]:
    """Whatever was written, but for the Lease, oldest first."""
    return sorted((one for one in traffic.writes() if one.resource != LEASE.plural), key=lambda one: one.received)


def test_after_an_outage_one_of_them_leads_soon(
    meet: Meet, services: list[Service], record_property: Callable[[str, object], None]
) -> None:
    """Nobody can lead meanwhile: the leader ends, and when it is started again it waits, as the follower does.

    Which of the two is faster afterwards is chance.
    """
    rivals = meet(**SHORT)
    with gate.opened(rivals.arena.account) as door:
        first = rivals.start(door.kubeconfig)
        second = rivals.start(door.kubeconfig)
        with busy(services):
            _wrote(rivals, first)
            door.swallow()
            shut = time.time()
            assert first.process.process.wait(timeout=20) == 1
            _told(record_property, "outage to the end of the leader", time.time() - shut)
            first.process.start()
            soon(lambda: "not started yet: " in first.process.tail(), "it waits for the API server")
            door.heal()
            healed, again = time.time(), Traffic(rivals.arena.cluster)
            soon(lambda: _written(again), "one of them writes")
        first.process.wait_ready()
    after = at(_written(again)[0]) - healed
    _told(record_property, "end of the outage to the first write", after)
    assert second.process.alive
    assert after <= 15
    assert rivals.reigns() in ([first.identity], [first.identity, second.identity])
