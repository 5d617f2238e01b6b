"""Manifests are checked without a cluster: what the API would refuse, and nothing that it would take."""

import copy
from typing import Any

import pytest

from vllm_operator.cluster import schema_errors


def deployment() -> dict[str, Any]:
    container = {
        "name": "server",
        "image": "none.test/server:v1",
        "args": ["--port", "8000"],
        "env": [{"name": "A", "value": "1"}],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8000}},
        "resources": {"limits": {"nvidia.com/gpu": 8, "cpu": 0.5, "memory": "8Gi"}, "requests": {"cpu": 1}},
    }
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": 1024}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a", "namespace": "b", "labels": {"app": "a"}},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container], "volumes": [shm]}},
        },
    }


def autoscaler(target: dict[str, Any]) -> dict[str, Any]:
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}
    metric = {"type": "Pods", "pods": {"metric": {"name": "waiting"}, "target": target}}
    spec = {"scaleTargetRef": reference, "maxReplicas": 3, "metrics": [metric]}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"}, "spec": spec}


def test_a_good_manifest_has_no_errors_and_is_left_as_it_was() -> None:
    manifest = deployment()
    before = copy.deepcopy(manifest)
    assert schema_errors(manifest) == []
    assert manifest == before


def test_quantities_may_be_numbers() -> None:
    assert schema_errors(autoscaler({"type": "AverageValue", "averageValue": 5})) == []


def set_in(manifest: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    place: Any = manifest
    for step in parents:
        place = place[int(step)] if step.isdigit() else place[step]
    place[last] = value
    return manifest


CONTAINER = "spec.template.spec.containers.0"


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("spec.replica", 2, "spec.replica"),
        ("spec.replicas", "2", "spec.replicas"),
        ("spec.selector", None, "spec.selector"),
        (f"{CONTAINER}.env", [{"name": "A", "value": 1}], f"{CONTAINER}.env.0.value"),
        (f"{CONTAINER}.args", "--port 8000", f"{CONTAINER}.args"),
        (f"{CONTAINER}.args", [8000], f"{CONTAINER}.args.0"),
        (f"{CONTAINER}.resources", {"limits": {"cpu": True}}, f"{CONTAINER}.resources.limits.cpu"),
        ("metadata.labels", {"app": 1}, "metadata.labels.app"),
    ],
)
def test_a_wrong_manifest_names_the_place(path: str, value: object, named: str) -> None:
    errors = schema_errors(set_in(deployment(), path, value))
    assert len(errors) == 1
    assert errors[0].startswith(f"{named}: ")


def test_all_that_is_wrong_is_said_at_once() -> None:
    manifest = set_in(set_in(deployment(), "spec.replica", 1), f"{CONTAINER}.imagePullPolicies", "Always")
    assert len(schema_errors(manifest)) == 2


@pytest.mark.parametrize(
    "manifest",
    [
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "spec": {"anything": 1}},
        {"apiVersion": "example.com/v1", "kind": "Deployment", "spec": {"anything": 1}},
        {"apiVersion": "v1", "kind": "Unheard"},
        {},
    ],
)
def test_kinds_that_kubernetes_lacks_are_not_checked(manifest: dict[str, Any]) -> None:
    assert schema_errors(manifest) == []


def test_kinds_of_groups_with_dots_are_checked() -> None:
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelectors": {}}}
    assert schema_errors(policy)
