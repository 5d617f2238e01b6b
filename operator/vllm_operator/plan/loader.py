"""What the pods of our Jobs share with the servers' pods: where they may run, and the files that they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_operator.api.base import without_nulls
from vllm_operator.api.spec import Spec
from vllm_operator.engine.arguments import is_cpu
from vllm_operator.naming import SERVER_CONTAINER
from vllm_operator.plan.types import Defaults

# Of the pod template: where a pod may run, pull from and how it resolves names; not what it runs.
_SHARED = ("affinity", "dnsConfig", "dnsPolicy", "hostAliases", "imagePullSecrets", "priorityClassName", "tolerations")
# As in deployment.yaml.j2.
_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_TMP = "/tmp"  # noqa: S108 - an emptyDir of the Job's pod, in fetch.yaml.j2
_OWN_VOLUMES = frozenset({"cache", "draining", "tmp", "shm", "model"})


def server_image(spec: Spec, defaults: Defaults) -> str:
    """The servers' image."""
    return spec.engine.image or _default_image(spec, defaults)


def versioned_image(spec: Spec, defaults: Defaults) -> str:
    """The image whose tag tells vLLM's version: of an own server's image nothing is known, the default stands in."""
    return _default_image(spec, defaults) if spec.engine.command else server_image(spec, defaults)


def _default_image(spec: Spec, defaults: Defaults) -> str:
    return defaults.cpu_image if is_cpu(spec) else defaults.engine_image


def _overlay(spec: Spec) -> Mapping[str, Any]:
    """What the pod template lays over a pod's spec."""
    overlay: Mapping[str, Any] = spec.pod_template.get("spec") or {}
    return overlay


def _items(overlay: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """What a list of the pod template adds, all with names; about anything odd the API server speaks for servers."""
    found = overlay.get(key)
    named = (one for one in (found if isinstance(found, list) else ()) if isinstance(one, Mapping))
    return [one for one in named if isinstance(one.get("name"), str) and not any(name.startswith("$") for name in one)]


def _mapping(overlay: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What a mapping of the pod template holds; a null in it removes a field, as in any strategic merge."""
    found = overlay.get(key)
    return found if isinstance(found, Mapping) else {}


def pod_settings(spec: Spec) -> dict[str, Any]:
    """Fields of the pod template's spec that hold for the Job's pod too."""
    overlay = _overlay(spec)
    selector = without_nulls(_mapping(overlay, "nodeSelector"))
    return {
        **({"nodeSelector": selector} if selector else {}),
        **{key: overlay[key] for key in _SHARED if overlay.get(key)},
    }


def pod_settings_beside(spec: Spec, placement: Mapping[str, Any]) -> dict[str, Any]:
    """The same, and where servers run without being asked: the Job runs on such a node, taints and all."""
    selector = without_nulls({**placement["nodeSelector"], **_mapping(_overlay(spec), "nodeSelector")})
    return {"tolerations": placement["tolerations"], **pod_settings(spec), "nodeSelector": selector}


def security_context(spec: Spec) -> dict[str, Any]:
    """The Job's pod runs as the servers' pods do: both read and write the same files."""
    asked: dict[str, Any] = without_nulls({**_SECURITY, **_mapping(_overlay(spec), "securityContext")})
    return asked


def volumes(spec: Spec) -> list[Mapping[str, Any]]:
    """Volumes that the pod template adds, such as a private CA: the Job talks to the hub that the CA vouches for."""
    return [item for item in _items(_overlay(spec), "volumes") if item["name"] not in _OWN_VOLUMES]


def laid_over(spec: Spec, volume: str) -> str:
    """The claim that the pod template lays over a volume of ours; empty when it lays none."""
    found = next((item for item in _items(_overlay(spec), "volumes") if item["name"] == volume), {})
    claim = _mapping(found, "persistentVolumeClaim").get("claimName")
    return claim if isinstance(claim, str) else ""


def volume_mounts(spec: Spec, own: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Where the pod template mounts those volumes in the server's container, but for where the Job mounts its `own`."""
    taken = [_TMP, *(mount["mountPath"] for mount in own)]  # no set: the other paths may be anything
    added = {volume["name"] for volume in volumes(spec)}
    servers = [item for item in _items(_overlay(spec), "containers") if item["name"] == SERVER_CONTAINER]
    mounts = [mount for server in servers for mount in _items(server, "volumeMounts")]
    return [mount for mount in mounts if mount["name"] in added and mount.get("mountPath") not in taken]
