"""Two operators, one acts: whatever ends it, the other takes over soon, and the two never write at once.

The API server's audit log says who wrote what and when; somebody changes resources all the while.
"""

from __future__ import annotations

import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping

import pytest

from cluster.support import gate
from cluster.support.arena import Arena
from cluster.support.proxy import Rule, hangs, proxied
from cluster.support.rivals import SHORT, Rival, Rivals, at, busy, soon
from cluster.support.service import Service
from vllm_operator.config import OperatorConfig
from vllm_operator.kinds import LEASE

# Longer than a Lease is held; at full length as long as docs/reliability.md says.
OUTAGE_SECONDS, FULL_OUTAGE_SECONDS = 20.0, 300.0
# How long it may take until the other one acts, or the same one again: at full length as docs/reliability.md says.
PATIENCE_SECONDS, ENDED_SECONDS = 120.0, 90.0
SILENT = "not leading until the lease is renewed, for which time is up: "

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
def times(*, full_length: bool) -> Mapping[str, str]:
    """Of the Lease: short ones at full length, and else the default ones, which a starved machine can keep to."""
    return SHORT if full_length else {}


@pytest.fixture
def services(arena: Arena, arena_namespace: str) -> list[Service]:
    return [Service.create(arena.api, arena_namespace, f"one-{number}") for number in range(3)]


def _wrote(rivals: Rivals, rival: Rival) -> None:
    """It leads and works off what comes in."""
    already = len(rivals.writes(rival))
    soon(lambda: len(rivals.writes(rival)) > already + 3, f"{rival.identity} writes")


def _told(record_property: Callable[[str, object], None], what: str, seconds: float) -> None:
    record_property(what, round(seconds, 2))
    print(f"{what}: {seconds:.2f} s")  # noqa: T201 - a figure


def test_a_follower_is_ready_and_does_nothing(meet: Meet, services: list[Service], times: Mapping[str, str]) -> None:
    rivals = meet(**times)
    first = rivals.start()
    rivals.wait_leader(first)
    second = rivals.start()
    with busy(services):
        _wrote(rivals, first)
        rivals.since = rivals.arena.cluster.audit_mark()
        soon(lambda: len(rivals.requests(second)) > 5, "the follower looks at the Lease")
    assert {(one.verb, one.resource) for one in rivals.requests(second)} == {("get", "leases")}
    assert [second.status(path) for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
    soon(lambda: (_is_leader(first), _is_leader(second)) == (1.0, 0.0), "the first leads")
    assert 'resource="leases"' in _page(second)
    assert rivals.reigns() == [first.identity]


def _page(rival: Rival) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{rival.process.port}/metrics", timeout=60) as answer:
        page: str = answer.read().decode()
    return page


def _is_leader(rival: Rival) -> float:
    said = re.search(r"^vllm_operator_is_leader (\S+)$", _page(rival), re.MULTILINE)
    assert said
    return float(said[1])


def test_a_leader_that_is_killed_is_followed_within_20_seconds(
    meet: Meet, services: list[Service], record_property: Callable[[str, object], None], *, full_length: bool
) -> None:
    """With the times that are the default; within 20 seconds at full length."""
    rivals = meet()
    first = rivals.start()
    second = rivals.start()
    with busy(services):
        _wrote(rivals, first)
        killed = time.time()
        first.process.kill()
        soon(lambda: rivals.writes(second), "the other one writes")
    took = at(rivals.terms(second)[0]) - killed
    _told(record_property, "SIGKILL to the other's Lease", took)
    _told(record_property, "SIGKILL to the other's first write", at(rivals.writes(second)[0]) - killed)
    within = 20.0 if full_length else PATIENCE_SECONDS
    assert 10 < took <= at(rivals.writes(second)[0]) - killed <= within
    assert rivals.reigns() == [first.identity, second.identity]


def test_a_leader_that_is_asked_to_end_is_followed_at_the_next_look(
    meet: Meet, services: list[Service], record_property: Callable[[str, object], None]
) -> None:
    """A look that begins once the Lease is given back takes it; there is one every two seconds at most."""
    rivals = meet()
    first = rivals.start()
    second = rivals.start()
    with busy(services):
        _wrote(rivals, first)
        asked = time.time()
        first.process.process.send_signal(signal.SIGTERM)
        soon(lambda: rivals.writes(second), "the other one writes")
    given_back, taken = at(rivals.terms(first)[-1]), at(rivals.terms(second)[0])
    _told(record_property, "SIGTERM to the Lease given back", given_back - asked)
    _told(record_property, "SIGTERM to the other's Lease", taken - asked)
    _told(record_property, "SIGTERM to the other's first write", at(rivals.writes(second)[0]) - asked)
    looks = [one for one in rivals.requests(second) if one.verb == "get" and given_back < at(one) < taken]
    assert len(looks) <= 2, "the first may have been answered while the Lease was given back"
    assert taken - given_back < 10, "it would have run out by then"
    assert first.process.stop() == 0
    assert rivals.reigns() == [first.identity, second.identity]


def test_a_leader_that_is_stopped_writes_nothing_when_it_goes_on(
    meet: Meet, services: list[Service], times: Mapping[str, str], record_property: Callable[[str, object], None]
) -> None:
    rivals = meet(**times)
    first = rivals.start()
    second = rivals.start()
    services += [Service.create(rivals.arena.api, rivals.namespace, f"more-{number}") for number in range(13)]
    with busy(services, pause=0.0):
        _wrote(rivals, first)
        first.process.process.send_signal(signal.SIGSTOP)
        soon(lambda: rivals.writes(second), "the other one writes")
        went_on = time.time()
        first.process.process.send_signal(signal.SIGCONT)
        assert first.process.process.wait(timeout=ENDED_SECONDS) == 1
        _told(record_property, "SIGCONT to the end of the deposed leader", time.time() - went_on)
    assert "leading no more: The lease is lost" in first.process.tail()
    deposed = at(rivals.terms(second)[0])
    late = {f"{one.verb} {one.uri}": at(one) - deposed for one in rivals.writes(first) if at(one) > deposed}
    assert late == {}, f"the lease was the other's, who began to write at {went_on - deposed:.2f} s"
    assert rivals.reigns() == [first.identity, second.identity]


def test_a_leader_that_is_not_answered_is_silent_before_its_lease_is_over(
    meet: Meet, services: list[Service], times: Mapping[str, str], record_property: Callable[[str, object], None]
) -> None:
    """Only what is asked about the Lease gets no answer: whatever else the leader sends arrives."""
    rivals = meet(**times)
    with proxied(rivals.arena.account, rivals.namespace) as proxy:
        first = rivals.start(proxy.kubeconfig)
        second = rivals.start()
        with busy(services):
            _wrote(rivals, first)
            with proxy.failing(Rule(hangs, path=f"/{LEASE.plural}/")):
                shut = time.time()
                soon(lambda: _is_leader(first) == 0.0, "the leader leads no more")
                said = time.time() - shut
                soon(lambda: len(rivals.writes(second)) > 3, "the other one writes")
                soon(lambda: (_is_leader(first), _is_leader(second)) == (0.0, 1.0), "the other one leads")
                assert first.process.alive
                soon(lambda: SILENT in first.process.tail(lines=1000), "it says so")
            healed = time.time()
            assert first.process.process.wait(timeout=ENDED_SECONDS) == 1
            ended = time.time() - healed
    silent = at(rivals.writes(first)[-1]) - shut
    _told(record_property, "hang to the leader's last write", silent)
    _told(record_property, "hang to what its metrics say", said)
    _told(record_property, "hang to the other's first write", at(rivals.writes(second)[0]) - shut)
    _told(record_property, "end of the hang to the end of the first leader", ended)
    assert silent < float(times.get("lease_renew_seconds", OperatorConfig().lease_renew_seconds))
    assert f"leading no more: The lease is lost: {second.identity} holds it." in first.process.tail()
    assert rivals.reigns() == [first.identity, second.identity]


def test_an_outage_ends_nobody_and_changes_no_leader(
    meet: Meet,
    services: list[Service],
    times: Mapping[str, str],
    record_property: Callable[[str, object], None],
    *,
    full_length: bool,
) -> None:
    """It outlasts the Lease, which nobody can see meanwhile, on connections that hang."""
    rivals = meet(**times)
    with gate.opened(rivals.arena.account) as door:
        first = rivals.start(door.kubeconfig)
        second = rivals.start(door.kubeconfig)
        with busy(services):
            _wrote(rivals, first)
            door.swallow()
            shut = time.monotonic()
            soon(lambda: [_is_leader(one) for one in (first, second)] == [0.0, 0.0], "nobody leads")
            soon(lambda: SILENT in first.process.tail(lines=1000), "it says so")
            time.sleep(shut + (FULL_OUTAGE_SECONDS if full_length else OUTAGE_SECONDS) - time.monotonic())
            assert [one.status(path) for one in (first, second) for path in ("/healthz", "/readyz")] == [200] * 4
            already, healed = len(rivals.writes(first)), time.time()
            door.heal()
            soon(lambda: len(rivals.writes(first)) > already + 3, "the same one writes")
    after = at(rivals.writes(first)[already]) - healed
    _told(record_property, "end of the outage to the first write", after)
    assert after <= (15.0 if full_length else PATIENCE_SECONDS)
    assert "leading again after " in first.process.tail(lines=1000)
    assert (first.process.alive, second.process.alive) == (True, True)
    assert rivals.reigns() == [first.identity]
