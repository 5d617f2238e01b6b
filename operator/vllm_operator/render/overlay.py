"""Strategic merge of pod templates (Kubernetes: "Update API Objects in Place Using kubectl patch").

Lists whose items have an identity are merged item by item, all others are replaced; null removes a field; `$patch` and
`$retainKeys` work as in kubectl. Items that are new to a list follow the old ones, so that the server stays the first
container. Merge keys: the patchMergeKey markers of k8s.io/api/core/v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_PATCH, _RETAIN = "$patch", "$retainKeys"


def strategic_merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`patch` laid over `base`; neither is changed."""
    fields = {key: value for key, value in patch.items() if key not in (_PATCH, _RETAIN)}
    match patch.get(_PATCH):
        case "replace":
            return fields
        case "delete":
            return {}
    retained = patch.get(_RETAIN)
    merged = {key: value for key, value in base.items() if retained is None or key in retained}
    for key, value in fields.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged_value(key, merged.get(key), value)
    return merged


def _merged_value(key: str, old: object, new: object) -> object:
    if isinstance(new, Mapping):
        return strategic_merge(old if isinstance(old, Mapping) else {}, new)
    if isinstance(new, list) and key in _MERGE_KEYS:
        return _merged_list(old if isinstance(old, list) else [], new, _MERGE_KEYS[key])
    return new


def _is_known(item: Mapping[str, Any], name: str) -> bool:
    return isinstance(item[name], str | int) if name in item else _PATCH in item


def _merged_list(old: list[Any], new: list[Any], name: str) -> list[Any]:
    """Old items keep their place, new ones follow in their own order."""
    if not all(isinstance(item, Mapping) and _is_known(item, name) for item in new):
        return new  # not what the API server takes: it says so better
    if any(item.get(_PATCH) == "replace" for item in new):
        return [item for item in new if _PATCH not in item]
    merged = {item[name]: dict(item) for item in old}
    for item in new:
        if item.get(_PATCH) == "delete":
            merged.pop(item.get(name), None)
        else:
            merged[item[name]] = strategic_merge(merged.get(item[name], {}), item)
    return list(merged.values())
