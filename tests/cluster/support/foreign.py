"""Objects of other people under the very names that a resource's children must have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.support.api import Api, Manifest
from cluster.support.service import manifest
from vllm_operator.api.parse import parse
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts

_POD: Manifest = {
    "metadata": {"labels": {"app": "foreign"}},
    "spec": {"containers": [{"name": "main", "image": "registry.example/foreign:1"}]},
}
_JOB_POD = {**_POD, "spec": {**_POD["spec"], "restartPolicy": "Never"}}
_TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nowhere"}
_SELECTOR = {"matchLabels": {"app": "foreign"}}
_CLAIM = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}

SPECS: Mapping[str, tuple[str, Mapping[str, Any] | None]] = {
    "ServiceAccount": ("v1", None),
    "PersistentVolumeClaim": ("v1", _CLAIM),
    "NetworkPolicy": ("networking.k8s.io/v1", {"podSelector": _SELECTOR}),
    "Job": ("batch/v1", {"template": _JOB_POD}),
    "Service": ("v1", {"ports": [{"port": 9}]}),
    "Deployment": ("apps/v1", {"replicas": 0, "selector": _SELECTOR, "template": _POD}),
    "HorizontalPodAutoscaler": ("autoscaling/v2", {"maxReplicas": 2, "scaleTargetRef": _TARGET}),
    "PodDisruptionBudget": ("policy/v1", {"minAvailable": 1, "selector": _SELECTOR}),
    "ConfigMap": ("v1", None),
}


def foreign(kind: str, name: str, owner: Manifest | None = None) -> Manifest:
    """Return an object of a kind, controlled by `owner` if there is one."""
    version, spec = SPECS[kind]
    metadata: Manifest = {"name": name, "labels": {"app": "foreign"}}
    if owner is not None:
        metadata["ownerReferences"] = [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "controller": True,
            }
        ]
    made: Manifest = {"apiVersion": version, "kind": kind, "metadata": metadata}
    return made if spec is None else {**made, "spec": spec}


def name_of_child(kind: str, name: str, *patches: Mapping[str, Any]) -> str:
    """Return what the child of a kind will be called for a resource of that name and spec."""
    plan = make_plan(parse(manifest(name, *patches)), Defaults(), Facts())
    (found,) = (child.name for child in plan.children if child.kind.kind == kind)
    return found


def owner_in(api: Api, namespace: str) -> Manifest:
    """Create an object that may own others, and return it."""
    created = api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "somebody"}}, namespace)
    return {"apiVersion": "v1", "kind": "ConfigMap", **created}
