"""What the pods of our Jobs share with the servers' pods: where they may run, and the files that they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_operator.api.spec import Spec
from vllm_operator.engine.arguments import is_cpu
from vllm_operator.plan.types import Defaults

# Of the pod template: where a pod may run, pull from and how it resolves names; not what it runs.
_SHARED = ("dnsConfig", "dnsPolicy", "hostAliases", "imagePullSecrets", "priorityClassName", "tolerations")
_OWN_VOLUMES = frozenset({"cache", "tmp", "shm", "model"})


def server_image(spec: Spec, defaults: Defaults) -> str:
    """The servers' image."""
    return spec.engine.image or _default_image(spec, defaults)


def versioned_image(spec: Spec, defaults: Defaults) -> str:
    """The image whose tag tells vLLM's version: of an own server's image nothing is known, the default stands in."""
    return _default_image(spec, defaults) if spec.engine.command else server_image(spec, defaults)


def _default_image(spec: Spec, defaults: Defaults) -> str:
    return defaults.cpu_image if is_cpu(spec) else defaults.engine_image


def _items(overlay: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """What a list of the pod template adds; about anything odd the API server speaks when servers are applied."""
    found = overlay.get(key)
    items = found if isinstance(found, list) else []
    return [item for item in items if isinstance(item, Mapping) and not any(name.startswith("$") for name in item)]


def pod_settings(spec: Spec) -> dict[str, Any]:
    """Fields of the pod template's spec that hold for the Job's pod too."""
    overlay = spec.pod_template.get("spec") or {}
    return {key: overlay[key] for key in _SHARED if key in overlay}


def pod_settings_beside(spec: Spec, placement: Mapping[str, Any]) -> dict[str, Any]:
    """The same, and everything that says where servers run: the Job runs on such a node, taints and all."""
    overlay = spec.pod_template.get("spec") or {}
    asked = overlay.get("nodeSelector")
    selector = {**placement["nodeSelector"], **(asked if isinstance(asked, Mapping) else {})}
    kept = {key: value for key, value in selector.items() if value is not None}
    affinity = {"affinity": overlay["affinity"]} if overlay.get("affinity") else {}
    return {"nodeSelector": kept, "tolerations": placement["tolerations"], **affinity, **pod_settings(spec)}


def volumes(spec: Spec) -> list[Mapping[str, Any]]:
    """Volumes that the pod template adds, such as a private CA: the Job talks to the hub that the CA vouches for."""
    overlay = spec.pod_template.get("spec") or {}
    return [item for item in _items(overlay, "volumes") if item.get("name") not in _OWN_VOLUMES]


def volume_mounts(spec: Spec) -> list[Mapping[str, Any]]:
    """Where the pod template mounts those volumes in the server's container."""
    overlay = spec.pod_template.get("spec") or {}
    added = {volume.get("name") for volume in volumes(spec)}
    servers = [item for item in _items(overlay, "containers") if item.get("name") == "vllm"]
    return [mount for server in servers for mount in _items(server, "volumeMounts") if mount.get("name") in added]
