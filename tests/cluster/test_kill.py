"""The operator dies at any point of its work (SIGKILL); the next one finishes it, as if nothing had happened."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from cluster.support.arena import Arena, Launch
from cluster.support.planned import deviations, strays
from cluster.support.service import Service
from cluster.support.traffic import Tail, Traffic, await_calm
from localcluster.wait import wait_for
from operator_process import OperatorProcess

# When each step sees a kill: at once, after the operator's first write about the resource, after the second, and so on.
# A step takes about so many writes. After every second of them; with --full-length after each, and then once more at a
# random moment after each, before most of which the next request is under way.
CREATE_POINTS, CHANGE_POINTS, REPLACE_POINTS = range(12), range(11), range(9)
CONVERGE_SECONDS = 90.0
QUIET_SECONDS = 5.0
MOMENT_SECONDS = 0.05

Patch = Mapping[str, Any]
# The two specs differ in every kind of child: from one to the other children are made, changed, parked and deleted.
FIRST: Patch = {
    "cache": {"ephemeral": None, "size": "20Gi", "reclaimPolicy": "Delete"},
    "autoscaling": {"minReplicas": 1, "maxReplicas": 2},
    "monitoring": {"dashboard": True},
}
SECOND: Patch = {
    "autoscaling": None,
    "replicas": 1,
    "networkPolicy": {},
    "monitoring": None,
    "engine": {"env": [{"name": "GREETING", "value": "hello"}]},
    "cache": {"size": "30Gi"},
}

Step = Callable[[Service], None]


def _create(service: Service) -> None:
    Service.create(service.api, service.namespace, service.name, FIRST)


def _change(service: Service) -> None:
    service.edit(SECOND)


def _replace(service: Service) -> None:
    """Delete it and create another one of the name, with another spec, as soon as that is possible."""
    service.delete()
    wait_for(lambda: service.gone, message=f"{service} is gone", interval=0.005)
    Service.create(service.api, service.namespace, service.name, FIRST, SECOND)


def _is_settled(service: Service) -> bool:
    return service.says("Ready", "True") and not deviations(service)


def _kill_after(
    writes: int, operator: OperatorProcess, arena: Arena, service: Service, step: Step, moment: float
) -> list[str]:
    """Do a step, kill the operator a moment after so many writes and start it again; return the writes until then."""
    tail = Tail(arena.cluster, service.name)
    step(service)
    deadline = time.monotonic() + CONVERGE_SECONDS
    idle = time.monotonic()
    while (seen := tail.poll()) < writes and time.monotonic() < deadline:
        if time.monotonic() - idle > 1.0:
            if _is_settled(service) and tail.poll() == seen:
                break
            idle = time.monotonic()
        time.sleep(0.001)
    time.sleep(moment)
    assert operator.alive, "the operator ended by itself"
    operator.kill()
    tail.poll()
    operator.start()
    return tail.seen


def _settle(services: list[Service]) -> None:
    for service in services:
        service.wait_ready(timeout=CONVERGE_SECONDS)
    api, namespace = services[0].api, services[0].namespace
    wait_for(lambda: not strays(api, namespace), CONVERGE_SECONDS, "no child is left without its resource")
    assert [f"{service}: {text}" for service in services for text in deviations(service)] == []


def test_killed_after_each_write_it_ends_as_if_never_killed(
    arena: Arena, arena_namespace: str, launch: Launch, *, full_length: bool
) -> None:
    operator = launch()
    every = 1 if full_length else 2
    moments = random.Random(50)  # noqa: S311 - the same in every run
    rounds = [lambda: 0.0, lambda: moments.uniform(0, MOMENT_SECONDS)]
    for number, moment in enumerate(rounds if full_length else rounds[:1]):
        names = {point: f"kill-{number}-{point:02}" for point in CREATE_POINTS[::every]}
        services = {point: Service(arena.api, arena_namespace, name) for point, name in names.items()}
        _kill_at_all_points(arena, operator, services, moment)
    await_calm(arena.cluster, QUIET_SECONDS)
    traffic = Traffic(arena.cluster)
    time.sleep(QUIET_SECONDS)
    assert traffic.counts() == {}


def _kill_at_all_points(
    arena: Arena, operator: OperatorProcess, services: Mapping[int, Service], moment: Callable[[], float]
) -> None:
    """Lead each service through all steps, with a kill in each of them."""
    kills = in_time = 0
    for step, points in ((_create, CREATE_POINTS), (_change, CHANGE_POINTS), (_replace, REPLACE_POINTS)):
        for point, service in services.items():
            if point not in points:
                continue
            writes = _kill_after(point, operator, arena, service, step, moment())
            kills, in_time = kills + 1, in_time + (len(writes) >= point)
            print(f"{step.__name__} {service}: killed after {len(writes)}: {', '.join(writes)}")  # noqa: T201
        _settle(list(services.values()))
    assert in_time >= 0.9 * kills, "most kills came after the work was done"
