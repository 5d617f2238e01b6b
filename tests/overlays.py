"""Overlays of a pod template and what they must make of it: held to this list are the merge here and kubectl's."""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {
    "metadata": {"labels": {"app": "vllm"}},
    "spec": {
        "nodeSelector": {"gpu": "L4"},
        "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "cache", "persistentVolumeClaim": {"claimName": "chat-cache"}},
        ],
        "containers": [
            {
                "name": "vllm",
                "image": "vllm:1",
                "args": ["a", "b"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 8000, "name": "http"}],
                "volumeMounts": [{"mountPath": "/cache", "name": "cache"}],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            }
        ],
    },
}
SIDECAR = {"name": "log", "image": "log:1"}


def _server(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a container
    return {"spec": {"containers": [{"name": "vllm", **fields}]}}


# Patch, where to look in the result, what must be there.
CASES: dict[str, tuple[dict[str, Any], str, Any]] = {
    "labels are added": ({"metadata": {"labels": {"team": "a"}}}, "metadata.labels", {"app": "vllm", "team": "a"}),
    "null removes a field": (
        {"spec": {"securityContext": {"fsGroup": None}}},
        "spec.securityContext",
        {"runAsUser": 1000},
    ),
    "null removes what is not there": ({"spec": {"affinity": {"x": None}, "hostname": None}}, "spec.affinity", {}),
    "a new map keeps no nulls": (
        {"spec": {"dnsConfig": {"a": None, "b": {"c": 1}}}},
        "spec.dnsConfig",
        {"b": {"c": 1}},
    ),
    "$patch replaces a map": (
        {"spec": {"nodeSelector": {"$patch": "replace", "b": "c"}}},
        "spec.nodeSelector",
        {"b": "c"},
    ),
    "a map is emptied": ({"spec": {"securityContext": {"$patch": "delete"}}}, "spec.securityContext", {}),
    "tolerations are replaced": ({"spec": {"tolerations": [{"key": "x"}]}}, "spec.tolerations", [{"key": "x"}]),
    "args are replaced": (_server(args=["c"]), "spec.containers.0.args", ["c"]),
    "env is merged by name": (
        _server(env=[{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]),
        "spec.containers.0.env",
        [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
    ),
    "env is taken away by name": (
        _server(env=[{"name": "A", "$patch": "delete"}, {"name": "Z", "$patch": "delete"}]),
        "spec.containers.0.env",
        [{"name": "B", "value": "2"}],
    ),
    "env is replaced as a whole": (
        _server(env=[{"$patch": "replace"}, {"name": "Z", "value": "9"}]),
        "spec.containers.0.env",
        [{"name": "Z", "value": "9"}],
    ),
    "ports are merged by number": (
        _server(ports=[{"containerPort": 8000, "protocol": "TCP"}, {"containerPort": 9000}]),
        "spec.containers.0.ports",
        [{"containerPort": 8000, "name": "http", "protocol": "TCP"}, {"containerPort": 9000}],
    ),
    "mounts are merged by path": (
        _server(volumeMounts=[{"mountPath": "/cache", "readOnly": True}]),
        "spec.containers.0.volumeMounts",
        [{"mountPath": "/cache", "name": "cache", "readOnly": True}],
    ),
    "resources are merged": (
        _server(resources={"limits": {"cpu": "8"}}),
        "spec.containers.0.resources",
        {"limits": {"nvidia.com/gpu": "1", "cpu": "8"}},
    ),
    "a sidecar joins": ({"spec": {"containers": [SIDECAR]}}, "spec.containers.1", SIDECAR),
    "a list that was not there": ({"spec": {"initContainers": [SIDECAR]}}, "spec.initContainers", [SIDECAR]),
    "nothing is taken from nothing": (
        {"spec": {"initContainers": [{"name": "x", "$patch": "delete"}]}},
        "spec.initContainers",
        [],
    ),
    "the source of a volume is exchanged": (
        {"spec": {"volumes": [{"name": "cache", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}},
        "spec.volumes.1",
        {"name": "cache", "emptyDir": {}},
    ),
}
