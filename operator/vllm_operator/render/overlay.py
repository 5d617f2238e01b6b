"""Strategic merge of pod templates (Kubernetes: "Update API Objects in Place Using kubectl patch").

Lists whose items have an identity are merged item by item, all others are replaced; null removes a field; `$patch` and
`$retainKeys` work as in kubectl. Items that are new to a list follow the old ones, so that the server stays the first
container. Merge keys: the patchMergeKey markers of k8s.io/api/core/v1.

What makes no sense, directives included, is left as it is: the API server refuses it, and says so better.
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
_DELETE, _REPLACE = "delete", "replace"


def strategic_merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`patch` laid over `base`; neither is changed."""
    fields = {key: value for key, value in patch.items() if not _directs(key, value)}
    match patch.get(_PATCH):
        case "replace":
            return fields
        case "delete":
            return {}
    retained = patch.get(_RETAIN)
    merged = {key: value for key, value in base.items() if not isinstance(retained, list) or key in retained}
    for key, value in fields.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged_value(key, merged.get(key), value)
    return merged


def _directs(key: str, value: object) -> bool:
    """Whether a field tells how to merge, and is none of the result."""
    return (key == _PATCH and value in (_DELETE, _REPLACE, "merge")) or (key == _RETAIN and isinstance(value, list))


def _merged_value(key: str, old: object, new: object) -> object:
    if isinstance(new, Mapping):
        return strategic_merge(old if isinstance(old, Mapping) else {}, new)
    if isinstance(new, list) and key in _MERGE_KEYS:
        return _merged_list(old if isinstance(old, list) else [], new, _MERGE_KEYS[key])
    return new


def _has_identity(item: object, name: str) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get(name), str | int)


def _replaces(item: object) -> bool:
    """An item that is none, and only says what becomes of the list."""
    return isinstance(item, Mapping) and item.get(_PATCH) == _REPLACE


def _merged_list(old: list[Any], new: list[Any], name: str) -> list[Any]:
    """Old items keep their place, new ones follow in their own order."""
    items = [item for item in new if not _replaces(item)]
    if not all(_has_identity(item, name) for item in (*old, *items)):
        return new
    if len(items) < len(new):
        return items
    merged = {item[name]: dict(item) for item in old}
    for item in items:
        if item.get(_PATCH) == _DELETE:
            merged.pop(item[name], None)
        else:
            merged[item[name]] = strategic_merge(merged.get(item[name], {}), item)
    return list(merged.values())
