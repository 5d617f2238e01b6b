"""What bears the name of a child but belongs to somebody else is never touched, and said; so is a quota in the way.

Every obstacle stands in one namespace at once, because what nobody tells the operator it finds out only by looking
again after a minute.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.support.api import NAMESPACE, QUOTA, Api, Manifest, kind_of
from cluster.support.covering import differences
from cluster.support.foreign import SPECS, foreign, name_of_child, owner_in
from cluster.support.service import CACHED, Service
from localcluster.wait import wait_for
from operator_process import OperatorProcess
from vllm_operator import kinds
from vllm_operator.naming import FIELD_MANAGER, HANDOVER_MANAGER, REPAIR_MANAGER

HEAL_SECONDS = 120.0

AUTOSCALED: Mapping[str, Any] = {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}}
# What a resource must ask for to have a child of a kind.
ASKED: Mapping[str, Mapping[str, Any]] = {
    "PersistentVolumeClaim": CACHED,
    "Job": CACHED,
    "NetworkPolicy": {"networkPolicy": {"from": []}},
    "HorizontalPodAutoscaler": AUTOSCALED,
    "PodDisruptionBudget": AUTOSCALED,
    "ConfigMap": {"monitoring": {"dashboard": True}},
}
# What pods stand on: nothing runs on a claim, as an account or past a policy that is somebody else's.
UNDER_PODS = ("ServiceAccount", "PersistentVolumeClaim", "NetworkPolicy")
OURS = {FIELD_MANAGER, HANDOVER_MANAGER, REPAIR_MANAGER}
OWNERS = ("nobody", "another")
ON_GPU = {"gpu": {"count": 1, "product": "NVIDIA-GeForce-RTX-4090"}}
# No GPU and no claim may be asked for.
QUOTAS = {"gpus": {"requests.nvidia.com/gpu": "0"}, "claims": {"persistentvolumeclaims": "0"}}


@dataclass(frozen=True, slots=True)
class Obstacles:
    """Resources that cannot have what they need, and what stands in their way."""

    api: Api
    services: dict[str, Service] = field(default_factory=dict)
    objects: dict[str, Manifest] = field(default_factory=dict)

    def live(self, name: str) -> Manifest | None:
        one = self.objects[name]
        return self.api.get(kind_of(one), one["metadata"]["namespace"], one["metadata"]["name"])

    def clear(self) -> None:
        """Remove everything that stands in the way; nothing the second time."""
        for name, one in self.objects.items():
            if self.live(name):
                self.api.delete(kind_of(one), one["metadata"]["namespace"], one["metadata"]["name"])


def _occupy(obstacles: Obstacles, namespace: str) -> None:
    owner = owner_in(obstacles.api, namespace)
    for kind in SPECS:
        for whose in OWNERS:
            name = f"{kind.lower()}-{whose}"
            asked = ASKED.get(kind, {})
            one = foreign(kind, name_of_child(kind, name, asked), owner if whose == "another" else None)
            obstacles.objects[name] = {**one, **obstacles.api.create(one, namespace)}
            obstacles.services[name] = Service.create(obstacles.api, namespace, name, asked)


def _limit(obstacles: Obstacles, namespace: str, name: str, spec: Mapping[str, Any]) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": name},
        "spec": {"hard": QUOTAS[name]},
    }
    created = obstacles.api.create(quota, namespace)

    def counted() -> bool:
        found = obstacles.api.get(QUOTA, namespace, name) or {}
        return "hard" in found.get("status", {})

    wait_for(counted, message=f"quota {name} is in force")
    obstacles.objects[name] = {**quota, **created}
    obstacles.services[name] = Service.create(obstacles.api, namespace, name, spec)


@pytest.fixture(scope="module")
def obstacles(api: Api, _operator: OperatorProcess) -> Iterator[Obstacles]:
    """Every conflict of names, and the quotas, each of these in a namespace of its own."""
    _operator.start()
    _operator.wait_ready()
    namespaces = {name: f"{name}-{secrets.token_hex(3)}" for name in ("names", *QUOTAS)}
    for one in namespaces.values():
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}})
    made = Obstacles(api)
    _limit(made, namespaces["gpus"], "gpus", ON_GPU)
    _limit(made, namespaces["claims"], "claims", CACHED)
    _occupy(made, namespaces["names"])
    yield made
    for one in namespaces.values():
        api.delete(NAMESPACE, "", one)


@pytest.fixture(scope="module")
def cleared(obstacles: Obstacles) -> Obstacles:
    """The same when nothing stands in the way any more."""
    obstacles.clear()
    return obstacles


@pytest.mark.parametrize("whose", OWNERS)
@pytest.mark.parametrize("kind", SPECS)
def test_foreign_object_is_said_and_not_touched(
    kind: str, whose: str, obstacles: Obstacles, operator: OperatorProcess
) -> None:
    assert operator.alive
    name = f"{kind.lower()}-{whose}"
    before, service = obstacles.objects[name], obstacles.services[name]
    found = service.wait("Ready", "False", "NameConflict")
    assert f"{kind} {before['metadata']['name']}" in found["message"]
    assert not service.says("Stalled", "True")
    (event,) = wait_for(lambda: service.events("NameConflict"), message="an Event")
    assert event["type"] == "Warning"
    now = obstacles.live(name)
    assert now is not None
    assert now["metadata"]["uid"] == before["metadata"]["uid"]
    assert differences(foreign(kind, before["metadata"]["name"]), now) == []
    assert {one["manager"] for one in now["metadata"]["managedFields"]} & OURS == set()


@pytest.mark.parametrize("whose", OWNERS)
@pytest.mark.parametrize("kind", UNDER_PODS)
def test_no_pod_runs_on_foreign_ground(kind: str, whose: str, obstacles: Obstacles) -> None:
    service = obstacles.services[f"{kind.lower()}-{whose}"]
    service.wait("Ready", "False", "NameConflict")
    assert service.child(kinds.SERVICE), "what needs no pod is there"
    assert service.child(kinds.DEPLOYMENT) is None
    assert service.jobs() == []


def test_what_is_not_in_the_way_is_carried_out(obstacles: Obstacles) -> None:
    """A Service of somebody else keeps the servers from being reached, not from starting."""
    service = obstacles.services["service-nobody"]
    wait_for(lambda: service.status["readyReplicas"] == 1, message="a server runs")
    assert service.says("Available", "True")


@pytest.mark.parametrize("name", QUOTAS)
def test_quota_is_said(name: str, obstacles: Obstacles) -> None:
    service = obstacles.services[name]
    found = service.wait("Ready", "False", "QuotaExceeded")
    assert f"exceeded quota: {name}" in found["message"]
    assert not service.says("Stalled", "True")
    (event, *_) = wait_for(lambda: service.events("QuotaExceeded"), message="an Event")
    assert event["type"] == "Warning"


def test_blocked_resources_heal_by_themselves(cleared: Obstacles, operator: OperatorProcess) -> None:
    assert operator.alive
    for service in cleared.services.values():
        service.wait_ready(timeout=HEAL_SECONDS)
        assert service.child(kinds.DEPLOYMENT)
