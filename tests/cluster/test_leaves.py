"""A field of the spec is edited on a resource that runs: the child that it is about follows, on the real API server.

The walk over every leaf needs no cluster (tests/unit); these few, for each kind of child, show that what is planned
also arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.support.fixtures import Create
from cluster.support.planned import deviations
from cluster.support.service import CACHED, Service
from localcluster.wait import wait_for
from vllm_operator import kinds
from vllm_operator.kinds import Kind

pytestmark = pytest.mark.usefixtures("unharmed")

ARRIVAL_SECONDS = 40.0
POD = ("spec", "template", "spec")
SERVER = (*POD, "containers", 0)
OWNER = ("metadata", "ownerReferences", 0)

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """An edit of the spec, and where in which child it must arrive as what; None: nothing is there."""

    edit: Mapping[str, Any]
    kind: Kind
    path: Path
    value: object
    suffix: str = ""

    def read(self, service: Service) -> object:
        """What is at the path of the child; None where there is no child or no such path."""
        value: Any = service.child(self.kind, self.suffix)
        for part in self.path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value


IMAGE = "ghcr.io/acme/vllm:v0.32.1"
PEER = {"podSelector": {"matchLabels": {"team": "a"}}}
ZONE = {"spec": {"nodeSelector": {"zone": "a"}}}
REPLICAS = ("spec", "replicas")
TARGET = ("spec", "metrics", 0, "pods", "target", "averageValue")

# One after the other on one resource: each edit is laid over what the former ones left, and some undo others.
LEAVES = (
    Leaf({"engine": {"image": IMAGE}}, kinds.DEPLOYMENT, (*SERVER, "image"), IMAGE),
    Leaf({"lifecycle": {"drainSeconds": 5}}, kinds.DEPLOYMENT, (*POD, "terminationGracePeriodSeconds"), 40),
    Leaf({"podTemplate": ZONE}, kinds.DEPLOYMENT, (*POD, "nodeSelector", "zone"), "a"),
    Leaf({"podTemplate": None}, kinds.DEPLOYMENT, (*POD, "nodeSelector", "zone"), None),
    Leaf({"replicas": 2}, kinds.DISRUPTION_BUDGET, ("spec", "maxUnavailable"), 1),
    Leaf({"rollout": {"spareGPU": True}}, kinds.DEPLOYMENT, ("spec", "strategy", "rollingUpdate", "maxSurge"), 1),
    Leaf({"suspend": True}, kinds.DEPLOYMENT, REPLICAS, 0),
    Leaf({"suspend": False}, kinds.DEPLOYMENT, REPLICAS, 2),
    Leaf({"service": {"port": 8080}}, kinds.SERVICE, ("spec", "ports", 0, "port"), 8080),
    Leaf({"service": {"type": "NodePort"}}, kinds.SERVICE, ("spec", "type"), "NodePort"),
    Leaf({"service": {"annotations": {"a.b/c": "d"}}}, kinds.SERVICE, ("metadata", "annotations", "a.b/c"), "d"),
    Leaf({"replicas": None, "autoscaling": {"maxReplicas": 4}}, kinds.AUTOSCALER, ("spec", "maxReplicas"), 4),
    Leaf({"autoscaling": {"metric": "Waiting", "target": 7}}, kinds.AUTOSCALER, TARGET, "7"),
    Leaf({"autoscaling": None, "replicas": 2}, kinds.AUTOSCALER, (), None),
    Leaf({"replicas": 1}, kinds.DISRUPTION_BUDGET, (), None),
    Leaf({"networkPolicy": {"from": [PEER]}}, kinds.NETWORK_POLICY, ("spec", "ingress", 0, "from"), [PEER]),
    Leaf({"networkPolicy": None}, kinds.NETWORK_POLICY, (), None),
    Leaf({"cache": {"size": "40Gi"}}, kinds.CLAIM, ("spec", "resources", "requests", "storage"), "40Gi", "-cache"),
    Leaf({"cache": {"reclaimPolicy": "Delete"}}, kinds.CLAIM, (*OWNER, "controller"), value=True, suffix="-cache"),
    Leaf({"cache": {"reclaimPolicy": "Retain"}}, kinds.CLAIM, OWNER, None, "-cache"),
    Leaf({"monitoring": {"dashboard": True}}, kinds.CONFIG_MAP, ("metadata", "name"), "leaves-dashboard", "-dashboard"),
    Leaf({"monitoring": {"dashboard": False}}, kinds.CONFIG_MAP, (), None, "-dashboard"),
)


def _await(leaf: Leaf, service: Service) -> None:
    def arrived() -> bool:
        assert leaf.read(service) == leaf.value
        return True

    wait_for(arrived, ARRIVAL_SECONDS, str(leaf))


def test_edits_arrive_in_the_children(create: Create) -> None:
    service = create("leaves", CACHED).wait_ready()
    for leaf in LEAVES:
        assert leaf.read(service) != leaf.value, f"{leaf} holds before the edit"
        service.edit(leaf.edit)
        _await(leaf, service)
    service.wait_ready(timeout=ARRIVAL_SECONDS)
    assert deviations(service) == []


def test_environment_and_revision_arrive_in_server_and_job(create: Create) -> None:
    service = create("leaves", CACHED).wait_ready()
    variable = {"name": "GREETING", "value": "hello, é: #1"}
    service.edit({"engine": {"env": [variable]}, "model": {"revision": "v1.0"}})
    wait_for(lambda: variable in service.container["env"], ARRIVAL_SECONDS, "the server has the variable")
    service.wait_ready()
    (job,) = service.jobs()
    (download,) = job["spec"]["template"]["spec"]["containers"]
    assert variable in download["env"]
    assert "v1.0" in download["args"]
    assert "v1.0" in service.container["args"]
    assert deviations(service) == []
