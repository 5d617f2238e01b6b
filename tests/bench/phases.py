"""What is measured, one thing after the other, on a scene."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from bench import bare
from bench.figures import Figure, quantile
from bench.scene import BARE_NAMESPACE, EPHEMERAL, NAMESPACE, Scene, answered, resource
from localcluster.audit import AuditEvent
from vllm_operator import kinds

RATIO_GOAL, ALONE_GOAL, EVENT_GOAL_SECONDS = 1.6, 2.0, 2.0
# Beside a storm others may take a tenth longer than beside one that is none of the operator's business: what rollouts
# cost the machine is the same in both.
STORM_GOAL = 1.1
# Slow enough that rollouts of one edit do not hold up the next on a small machine.
_EDITS_PER_SECOND = 4
_EDITS, _ROUNDS = 100, 3
_FLIPS_PER_SECOND = 10
_AFTERWARDS_SECONDS = 5.0  # more than the last change takes
_ALONE = 7
_LOOK_SECONDS = 0.01
# Of 5,000 claims at once the control plane itself ended up binding 26 a minute, on two cores.
_WAVE = 1000
_RESYNC_SECONDS = 480.0  # the earliest
_OPTIONAL_KINDS = sum(kind.optional for kind in kinds.CHILDREN)  # of one API group, which is asked for each of them
_RENEWALS_GOAL, _REST_GOAL_PERCENT = 1.2, 5.0  # one in 1.75 s on average: pauses are cut at random


def _memory_goal(count: int) -> float:
    """MiB that the operator of so many resources may take: of a thousand, and of five."""
    return 120.0 if count <= 1000 else 250.0


def _restart_goal(count: int) -> float:
    """Seconds: of a thousand resources, and as much for each thousand more."""
    return 15.0 * max(1.0, count / 1000)


# --- many at once


async def floor(scene: Scene, count: int) -> float:
    """Seconds in which a client that only writes gets as many services to run; their resources, too, are written."""
    started = time.monotonic()
    for first, there in _waves(count):
        resources = [scene.resource(index, BARE_NAMESPACE) for index in range(first, there)]
        await bare.each(resources, scene.apply)
        await bare.write(scene.client, resources)
        await bare.until_available(scene.client, BARE_NAMESPACE, there)
    return time.monotonic() - started


def _waves(count: int) -> Iterator[tuple[int, int]]:
    """First of each wave, and how many there are with it."""
    return ((first, min(first + _WAVE, count)) for first in range(0, count, _WAVE))


async def converge(scene: Scene, count: int) -> tuple[float, list[Figure]]:
    """Resources created as fast as the API server takes them, until all are Ready: seconds, and what it cost."""
    mark, started = scene.local.audit_mark(), time.monotonic()
    for first, there in _waves(count):
        await bare.each([scene.resource(index) for index in range(first, there)], scene.apply)
        await scene.until_ready(there)
    seconds = time.monotonic() - started
    requests = Counter(f"{one.verb} {one.resource}" for one in scene.requests(mark))
    await scene.until_calm()
    return seconds, [
        Figure(f"{count} resources, operator, until all are Ready", seconds, "s"),
        Figure("requests per resource", requests.total() / count),
        *(Figure(f"  {name}", number / count) for name, number in requests.most_common(8)),
        Figure("resident memory", scene.resident_mib(), "MiB", _memory_goal(count)),
        Figure("resident memory at most", scene.resident_mib("VmHWM"), "MiB"),
    ]


def compare(count: int, seconds: float, floors: Sequence[float]) -> list[Figure]:
    """The operator's time beside the floor before and the one after: a machine that is shared changes its pace."""
    return [
        *(Figure(f"{count} resources, a client that only writes", one, "s") for one in floors),
        Figure("ratio to their mean", seconds / mean(floors), "", RATIO_GOAL),
    ]


def _looks(seconds: float) -> int:
    """How often everything may be looked at in so long a time: never in a short one."""
    return 1 + int(seconds / _RESYNC_SECONDS) if seconds >= _RESYNC_SECONDS else 0


def _beyond(requests: Sequence[AuditEvent], looks: int) -> int:
    """How many there are beside one read of each object and each list, and what discovery tells of optional kinds."""
    writes = sum(one.is_write for one in requests)
    reads = Counter((one.uri, bool(one.resource)) for one in requests if not one.is_write)
    excess = (count - looks * (1 if of_objects else _OPTIONAL_KINDS) for (_, of_objects), count in reads.items())
    return writes + sum(max(0, one) for one in excess)


async def idle(scene: Scene, seconds: float) -> list[Figure]:
    """What it does when nothing happens: renew the Lease, and every ten minutes or so read what there is."""
    before, mark, cpu = await scene.versions(), scene.local.audit_mark(), scene.cpu_seconds
    await asyncio.sleep(seconds)
    cpu, renewals = scene.cpu_seconds - cpu, scene.renewals(mark)
    excess = _beyond(scene.requests(mark), _looks(seconds))
    changed = len(before.items() ^ (await scene.versions()).items())
    return [
        Figure(f"requests in {seconds:g} s of idleness; not watches, the Lease, looks", excess, "", 0),
        Figure("objects changed meanwhile", changed, "", 0),
        Figure("writes of the Lease in two seconds", 2 * renewals / seconds, "", _RENEWALS_GOAL),
        Figure("CPU at rest, of one core", 100 * cpu / seconds, "%", _REST_GOAL_PERCENT),
    ]


# --- one after the other


async def _edit(scene: Scene, count: int, sequences: int) -> list[float]:
    """Change resources at a steady pace; for each the seconds from the answer to the last apply of its Deployment."""
    mark, turns = scene.local.audit_mark(), min(count, _EDITS)
    began = time.monotonic()
    for turn in range(turns):
        await asyncio.sleep(max(0.0, began + turn / _EDITS_PER_SECOND - time.monotonic()))
        await scene.apply(scene.changed(turn, sequences))
    await asyncio.sleep(_AFTERWARDS_SECONDS)
    asked: dict[str, float] = {}
    done: dict[str, float] = {}
    for one in scene.local.audit_events(since=mark):
        if one.verb != "patch" or one.stage != "ResponseComplete" or one.namespace != NAMESPACE:
            continue
        if one.resource == "vllmdeployments" and not one.subresource:
            asked[one.name] = answered(one)
        elif one.resource == "deployments" and "fieldManager=vllm-operator" in one.uri:
            done[one.name] = answered(one)
    edited = {f"bench-{turn}" for turn in range(turns)}
    return [done[name] - asked[name] for name in edited]


async def _flip(scene: Scene, namespace: str, name: str) -> None:
    """Fight for the image of a Deployment, until cancelled."""
    turn = 0
    while True:
        turn += 1
        container = {"name": "vllm", "image": f"rival.example/vllm:v{turn % 2}"}
        rival: dict[str, Any] = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"template": {"spec": {"containers": [container]}}},
        }
        await scene.client.apply(rival, "rival")
        await asyncio.sleep(1 / _FLIPS_PER_SECOND)


@contextlib.asynccontextmanager
async def _storm(scene: Scene, namespace: str, name: str) -> AsyncIterator[None]:
    task = asyncio.create_task(_flip(scene, namespace, name))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def events(scene: Scene, count: int) -> list[Figure]:
    """From a user's change to the last apply that follows: alone, and beside storms over a Deployment.

    In turns, because a machine that is shared changes its pace.
    """
    quiet, elsewhere, beside = list[float](), list[float](), list[float]()
    nobodys = scene.resource(count, BARE_NAMESPACE)
    await bare.write(scene.client, [nobodys])
    for turn in range(_ROUNDS):
        quiet += await _edit(scene, count - 1, 32 + 3 * turn)
        async with _storm(scene, BARE_NAMESPACE, nobodys["metadata"]["name"]):
            elsewhere += await _edit(scene, count - 1, 33 + 3 * turn)
        async with _storm(scene, NAMESPACE, f"bench-{count - 1}"):
            beside += await _edit(scene, count - 1, 34 + 3 * turn)
    await scene.until_calm()
    return [
        Figure(f"change to apply, p50 of {len(quiet)}", quantile(quiet, 0.5), "s"),
        Figure("change to apply, p99", quantile(quiet, 0.99), "s", EVENT_GOAL_SECONDS),
        Figure("the same beside a storm that is not the operator's, p50", quantile(elsewhere, 0.5), "s"),
        Figure("the same beside a storm that is not the operator's, p99", quantile(elsewhere, 0.99), "s"),
        Figure("the same beside a storm that it fights, p50", quantile(beside, 0.5), "s"),
        Figure("the same beside a storm that it fights, p99", quantile(beside, 0.99), "s", EVENT_GOAL_SECONDS),
        Figure("ratio beside either storm, p50", quantile(beside, 0.5) / quantile(elsewhere, 0.5), "", STORM_GOAL),
        Figure("ratio beside either storm, p99", quantile(beside, 0.99) / quantile(elsewhere, 0.99), "", STORM_GOAL),
    ]


# --- a restart


async def restart(scene: Scene, count: int) -> list[Figure]:
    """Ended and started again: how long until every resource was looked at, and what was written meanwhile.

    Not killed: then its Lease would have to run out first, which is no work.
    """
    before, mark = await scene.versions(), scene.local.audit_mark()
    assert scene.operator.stop() == 0
    started = time.monotonic()
    scene.operator.start()
    scene.operator.wait_ready()
    await scene.until_counted(count)
    seconds = time.monotonic() - started
    await scene.until_calm()
    after = await scene.versions()
    return [
        Figure(f"restart, until all {count} were looked at", seconds, "s", _restart_goal(count)),
        Figure("requests that write, after a restart", sum(one.is_write for one in scene.requests(mark)), "", 0),
        Figure("objects changed by a restart", len(before.items() ^ after.items()), "", 0),
        Figure("resident memory after a restart", scene.resident_mib(), "MiB", _memory_goal(count)),
        Figure("resident memory after a restart at most", scene.resident_mib("VmHWM"), "MiB"),
    ]


# --- one alone


async def alone(scene: Scene) -> list[Figure]:
    """One resource and nothing else to do, without a download to wait for: medians of a few."""
    ours, theirs = [], []
    for turn in range(_ALONE):
        theirs.append(await _bare_alone(scene, resource(10_000 + turn, BARE_NAMESPACE, **EPHEMERAL)))
        ours.append(await _operator_alone(scene, resource(10_000 + turn, NAMESPACE, **EPHEMERAL)))
    bare_seconds, seconds = quantile(theirs, 0.5), quantile(ours, 0.5)
    return [
        Figure("one resource, a client that only writes", bare_seconds, "s"),
        Figure("one resource, operator, until it is Ready", seconds, "s"),
        Figure("ratio for one", seconds / bare_seconds, "", ALONE_GOAL),
    ]


async def _bare_alone(scene: Scene, one: dict[str, Any]) -> float:
    started = time.monotonic()
    await bare.write(scene.client, [one])
    await _until(scene, kinds.DEPLOYMENT, one, lambda status: status.get("availableReplicas", 0) > 0)
    return time.monotonic() - started


async def _operator_alone(scene: Scene, one: dict[str, Any]) -> float:
    started = time.monotonic()
    await scene.apply(one)
    await _until(scene, kinds.RESOURCE, one, lambda status: status.get("phase") == "Ready")
    return time.monotonic() - started


async def _until(
    scene: Scene, kind: kinds.Kind, one: dict[str, Any], said: Callable[[Mapping[str, Any]], bool]
) -> None:
    metadata = one["metadata"]
    while True:
        live = await scene.client.get(kind, metadata["namespace"], metadata["name"])
        if live and said(live.get("status") or {}):
            return
        await asyncio.sleep(_LOOK_SECONDS)
