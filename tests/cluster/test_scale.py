"""Many resources at once: what each costs the API server, and that all of them cost nothing once they are settled.

Times are measured by `make bench`, beside a client that writes the same children.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from cluster.support.arena import Arena, Launch
from cluster.support.planned import deviations, strays
from cluster.support.service import CACHED, Service
from cluster.support.traffic import Traffic, await_calm
from localcluster import nodes

RESOURCES = 40
CONVERGE_SECONDS = 180.0
CALM_SECONDS = 3.0
SILENCE_SECONDS = 10.0
GPU = {"gpu": {"count": 1, "product": "NVIDIA-GeForce-RTX-4090"}, "model": {"maxLength": 8192}}

# Requests per resource from nothing to Ready, on average. Measured: gets 2, child writes 5.0, status writes 3.3. A pass
# that writes a child reads the resource before; a busy machine makes them more.
GETS = 4.0
CHILD_WRITES = 5.2
STATUS_WRITES = 6.0
EVENTS = 1.1


@pytest.fixture
def room(arena: Arena) -> Iterator[None]:
    """GPUs for all at once."""
    extra = nodes.scale_nodes(RESOURCES)
    arena.cluster.add_nodes(extra)
    yield
    arena.cluster.remove_nodes(extra)


def _per_resource(counts: Counter[str]) -> dict[str, float]:
    """Requests for one resource, sorted into what they are for."""
    sums: Counter[str] = Counter()
    for name, count in counts.items():
        verb, _, resource = name.partition(" ")
        if verb == "get":
            sums["get"] += count
        elif resource == "vllmdeployments/status":
            sums["status"] += count
        elif verb == "patch" and resource != "events":
            sums["child"] += count
        else:
            sums[name] += count
    return {name: count / RESOURCES for name, count in sums.items()}


@pytest.mark.usefixtures("room")
def test_many_at_once_cost_little_and_then_nothing(arena: Arena, arena_namespace: str, launch: Launch) -> None:
    launch()
    api, traffic = arena.api, Traffic(arena.cluster)
    services = [Service.create(api, arena_namespace, f"many-{index}", CACHED, GPU) for index in range(RESOURCES)]
    for service in services:
        service.wait_ready(timeout=CONVERGE_SECONDS)
    await_calm(arena.cluster, CALM_SECONDS)
    # What an earlier test left may still be on its way out, in another namespace.
    costs = _per_resource(traffic.counts(arena_namespace))
    print({name: round(cost, 2) for name, cost in costs.items()})  # noqa: T201 - shown when the test fails
    assert costs.pop("get") <= GETS
    assert costs.pop("child") <= CHILD_WRITES
    assert costs.pop("status") <= STATUS_WRITES
    assert costs.pop("create events") <= EVENTS
    # On a busy machine the pods of a Job come late, and its Events are asked for the reason.
    assert costs.pop("list events", 0.0) <= 1
    # Each kind is listed once when the watch begins.
    assert {name for name in costs if not name.startswith("list ")} == set()
    assert sum(costs.values()) * RESOURCES <= 20

    silence = Traffic(arena.cluster)
    time.sleep(SILENCE_SECONDS)
    assert silence.counts() == {}
    assert [f"{service}: {text}" for service in services[::10] for text in deviations(service)] == []
    assert strays(api, arena_namespace) == []
