"""Strategic merge of pod templates (Kubernetes: "Update API Objects in Place Using kubectl patch").

Lists whose items have an identity are merged item by item, all others are replaced; null removes a field;
`$patch: replace` and `$patch: delete` work as in kubectl. Merge keys: the patchMergeKey markers of k8s.io/api/core/v1.
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
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_DIRECTIVE = "$patch"


def strategic_merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`patch` laid over `base`; neither is changed."""
    if patch.get(_DIRECTIVE) == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    merged = dict(base)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif key != _DIRECTIVE:
            merged[key] = _merged_value(key, merged.get(key), value)
    return merged


def _merged_value(key: str, old: object, new: object) -> object:
    if isinstance(new, Mapping):
        return strategic_merge(old if isinstance(old, Mapping) else {}, new)
    if isinstance(new, list) and isinstance(old, list) and _is_keyed(key, [*old, *new]):
        return _merged_list(old, new, _MERGE_KEYS[key])
    return new


def _is_keyed(key: str, items: list[Any]) -> bool:
    name = _MERGE_KEYS.get(key)
    return name is not None and all(isinstance(item, Mapping) and name in item for item in items)


def _merged_list(old: list[Any], new: list[Any], name: str) -> list[Any]:
    """Old items keep their place, new ones follow in their own order."""
    merged = {item[name]: dict(item) for item in old}
    for item in new:
        if item.get(_DIRECTIVE) == "delete":
            merged.pop(item[name], None)
        else:
            merged[item[name]] = strategic_merge(merged.get(item[name], {}), item)
    return list(merged.values())
