"""The restricted profile of the Pod Security Standards, as far as it applies to pods made from templates.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Volume types that k8s.io/pod-security-admission lets pass (policy/check_restrictedVolumes.go).
_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def violations(pod: Mapping[str, Any]) -> list[str]:
    """What of a pod's spec the restricted profile forbids; empty when it is allowed."""
    return [*_of_pod(pod), *(found for one in containers(pod) for found in _of_container(pod, one))]


def containers(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All containers, those that run first included."""
    yield from pod.get("initContainers", ())
    yield from pod["containers"]


def _of_pod(pod: Mapping[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield f"{name} is set"
    for volume in pod.get("volumes", ()):
        if not set(volume) - {"name"} <= _VOLUMES or len(volume) != 2:
            yield f"volume {volume} is of no type that is allowed"
    security = pod.get("securityContext", {})
    if security.get("sysctls"):
        yield "sysctls are set"


def _of_container(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    name, own = container["name"], container.get("securityContext", {})
    both = {**pod.get("securityContext", {}), **own}
    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation is not false"
    if own.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{name}: capabilities are not dropped"
    if set(own.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities are added"
    if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
        yield f"{name}: may run as root"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name}: no seccomp profile"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield f"{name}: host ports"
