"""Edits faster than they can be carried out, and deletions in their midst: the last word counts, nothing is left."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import pytest

from cluster.support.api import Api, ApiError
from cluster.support.fixtures import Create
from cluster.support.planned import deviations, strays
from cluster.support.service import CACHED, Service
from cluster.support.traffic import Traffic
from localcluster.cluster import Cluster
from localcluster.wait import wait_for

pytestmark = pytest.mark.usefixtures("unharmed")

SEED = 20260101
RESOURCES = 20
EDITS = 50
WRITERS = 8
# Events and statuses included; a pass sees many edits at once, so far fewer are needed than this allows.
WRITES_PER_EDIT = 3
STORM_SECONDS = 90.0

Patch = Mapping[str, Any]


def _random(name: str) -> random.Random:
    return random.Random(f"{SEED} {name}")  # noqa: S311 - the same in every run


def _edits(rng: random.Random, most: int) -> Iterator[Patch]:
    """Yield merge patches of a spec, each valid whatever came before, that ask for at most so many replicas."""
    images = [f"vllm/vllm-openai-cpu:v0.32.{patch}" for patch in range(4)]
    choices: list[Callable[[], Patch]] = [
        lambda: {"engine": {"image": rng.choice(images)}},
        lambda: {"model": {"maxLength": rng.choice((2048, 4096, 8192, 16384))}},
        lambda: {"replicas": rng.randint(0, most), "autoscaling": None},
        lambda: {"replicas": None, "autoscaling": {"minReplicas": 1, "maxReplicas": rng.randint(1, most)}},
        lambda: {"engine": {"env": [{"name": f"V{rng.randint(0, 2)}", "value": str(rng.random())}]}},
        lambda: {"suspend": rng.random() < 0.5},
        lambda: {"monitoring": {"dashboard": rng.random() < 0.5}},
        lambda: {"networkPolicy": rng.choice((None, {}))},
    ]
    while True:
        yield rng.choice(choices)()


def _replicas_of(index: int) -> int:
    """The most replicas of a resource of the storm.

    Kubernetes' own Deployment controller hangs for good when a rollout without surge is scaled down between two of its
    steps (kubernetes/kubernetes issue 102551), so only those that may surge get more than one.
    """
    return 3 if index % 4 == 0 else 1


def _storm(create: Create, index: int) -> Service:
    """Create one resource of the storm and edit it as fast as the API server takes it."""
    most = _replicas_of(index)
    service = create(f"storm-{index}", {"rollout": {"spareGPU": most > 1}}, *([CACHED] if index % 2 else []))
    edits = _edits(_random(service.name), most)
    for _ in range(EDITS):
        service.edit(next(edits))
    return service


def test_edit_storm_ends_with_the_last_spec(create: Create, local_cluster: Cluster, api: Api, namespace: str) -> None:
    print(f"seed {SEED}")  # noqa: T201 - shown when the test fails
    traffic = Traffic(local_cluster)
    with ThreadPoolExecutor(WRITERS) as writers:
        services = list(writers.map(lambda index: _storm(create, index), range(RESOURCES)))
    for service in services:
        service.wait("Ready", "True", timeout=STORM_SECONDS)
    wrong = [f"{service}: {text}" for service in services for text in deviations(service)]
    assert wrong == []
    assert strays(api, namespace) == []
    writes = traffic.writes(namespace)
    print(f"{len(writes)} writes for {RESOURCES * EDITS} edits: {traffic.counts()}")  # noqa: T201
    assert len(writes) <= WRITES_PER_EDIT * RESOURCES * EDITS


# --- deletion, and another resource of the same name at once

ROUNDS = 8
GONE_SECONDS = 60.0
# Two resources of one name that have hardly a child in common.
FULL: Patch = {
    "cache": {"ephemeral": None, "size": "20Gi", "reclaimPolicy": "Delete"},
    "autoscaling": {"minReplicas": 2, "maxReplicas": 3},
    "networkPolicy": {},
    "monitoring": {"dashboard": True},
}
BARE: Patch = {"service": {"port": 8080}, "replicas": 1}


def _create_again(create: Create, name: str, *patches: Patch) -> Service:
    """Create a resource as soon as the API server takes the name."""

    def taken() -> Service | None:
        try:
            return create(name, *patches)
        except ApiError as error:
            if error.code != HTTPStatus.CONFLICT:
                raise
            return None

    made = wait_for(taken, message=f"the name {name} is free", interval=0.01)
    assert made is not None
    return made


def _await_children(service: Service, count: int) -> None:
    wait_for(lambda: len(service.children()) >= count, GONE_SECONDS, f"{count} children of {service}", interval=0.005)


def _uids(service: Service) -> set[str]:
    return {one["metadata"]["uid"] for one in service.children()}


@pytest.mark.parametrize("policy", ["Background", "Foreground", "Orphan"])
def test_delete_while_creating(policy: str, create: Create, api: Api, namespace: str) -> None:
    """Children of former resources are taken over only when they were orphaned on purpose, and then only if needed."""
    rng = _random(policy)
    former: set[str] = set()
    for turn in range(ROUNDS):
        service = _create_again(create, "again", FULL if turn % 2 else BARE)
        _await_children(service, rng.randint(0, 3))
        service.delete(policy)
        former |= _uids(service)
    last = _create_again(create, "again", BARE).wait_ready()
    wait_for(lambda: not strays(api, namespace), GONE_SECONDS, "what belonged to the former resources is gone")
    last.wait_ready()
    assert deviations(last) == []
    if policy != "Orphan":
        assert not _uids(last) & former, "a child of a resource that was deleted serves another one"


def test_deleted_for_good_leaves_nothing(create: Create, api: Api, namespace: str) -> None:
    services = [create(f"gone-{index}", FULL) for index in range(ROUNDS)]
    for index, service in enumerate(services):
        _await_children(service, index)
        service.delete("Foreground" if index % 2 else "Background")
    wait_for(lambda: all(service.gone for service in services), GONE_SECONDS, "the resources are gone")
    wait_for(lambda: not any(service.children() for service in services), GONE_SECONDS, "their children are gone")
    assert strays(api, namespace) == []
