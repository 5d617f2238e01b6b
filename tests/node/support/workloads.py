"""Manifests that the restricted Pod Security Standard accepts, for pods that really run."""

from collections.abc import Mapping, Sequence
from typing import Any

from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for

Manifest = dict[str, Any]

TOOLS_IMAGE = "localcluster.test/tools:1"  # a shell, a few commands and Python
_DEADLINE_SECONDS = 60.0


def pod(
    name: str,
    command: Sequence[str],
    *,
    claims: Mapping[str, str] | None = None,
    resources: Mapping[str, str] | None = None,
    image: str = TOOLS_IMAGE,
) -> Manifest:
    """Return a pod that runs `command` once.

    Args:
        name: of the pod; also its label `app`.
        command: in exec form.
        claims: mount path -> name of a claim.
        resources: requests that are limits too.
        image: one that the node has.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": pod_spec(command, claims=claims, resources=resources, image=image) | {"restartPolicy": "Never"},
    }


def pod_spec(
    command: Sequence[str],
    *,
    claims: Mapping[str, str] | None = None,
    resources: Mapping[str, str] | None = None,
    image: str = TOOLS_IMAGE,
) -> Manifest:
    """Return the spec of a pod of one container as user 1000, with a read-only root filesystem and /tmp to write to."""
    mounts = dict(claims or {})
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "resources": {"requests": dict(resources or {}), "limits": dict(resources or {})},
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
            *({"name": claim, "mountPath": path} for path, claim in mounts.items()),
        ],
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            *({"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in mounts.values()),
        ],
    }


def claim(name: str, storage_class: str = "standard", mode: str = "ReadWriteOnce", size: str = "1Gi") -> Manifest:
    """Return a claim for a volume."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": storage_class,
            "accessModes": [mode],
            "resources": {"requests": {"storage": size}},
        },
    }


def service(name: str, port: int) -> Manifest:
    """Return a Service on port 80 for the pods with the label `app: name` that listen on `port`."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]},
    }


def finished(kubectl: Kubectl, name: str) -> str:
    """Wait until a pod has ended and return its phase, Succeeded or Failed."""

    def phase() -> str:
        found = kubectl.get("pod", name)
        assert found is not None, f"pod {name} is gone"
        now: str = found["status"].get("phase", "")
        return now if now in ("Succeeded", "Failed") else ""

    return wait_for(phase, _DEADLINE_SECONDS, f"pod {name} ends")
