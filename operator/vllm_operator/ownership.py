"""What our server-side applies hold of a live object, read from the record that the API server keeps of it.

`metadata.managedFields` names the fields of each manager as a tree (FieldsV1:
https://kubernetes.io/docs/reference/using-api/server-side-apply/). An object needs no apply when the fields that are
ours hold what we would write and there are no more of them; a field that somebody else changed is not ours any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from vllm_operator.api.quantity import to_number
from vllm_operator.naming import FIELD_MANAGER, digest, repair_entry

Fields = Mapping[str, Any]
_Key = tuple[tuple[str, Any], ...]

_APPLY = "Apply"
# Not content: what tells objects apart, what the API server stamps, and what others report.
_HEAD = frozenset({"apiVersion", "kind", "status", "metadata"})
_CONTENT_OF_METADATA = ("labels", "annotations", "ownerReferences")
# What the API server adds to parts that belong to one manager as a whole, where a manifest may leave it out.
_DEFAULTS: Mapping[str, object] = {"apiVersion": "v1", "protocol": "TCP", "divisor": "0", "expirationSeconds": 3600}
_QUANTITIES = frozenset({"requests", "limits", "sizeLimit", "averageValue"})
_NOTHING: tuple[object, ...] = (None, "", [])


# All of this runs for every event: JSON is told by its own types, which is a lot faster than asking for Mapping.


def applied_fields(metadata: Mapping[str, Any]) -> Fields | None:
    """The fields that our own applies hold; None where we never applied anything."""
    for entry in metadata.get("managedFields") or ():
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == _APPLY and not entry.get("subresource"):
            return dict(entry.get("fieldsV1") or {})
    return None


def extract(value: Any, fields: Fields) -> Any:  # noqa: ANN401 - any JSON
    """The part of a value that a tree of fields names; the shape stays. A tree without branches names all of it."""
    if not fields:
        return value
    if isinstance(value, dict):
        part = {}
        for key, below in fields.items():
            if key.startswith("f:") and (name := key[2:]) in value:
                part[name] = extract(value[name], below) if below else value[name]
        return part
    if isinstance(value, list):
        return list(_items(value, fields))
    return None  # another type than when the field was set


def _items(values: Sequence[Any], fields: Fields) -> Iterator[Any]:
    """The named items of a list that has keys (`k:`) or is a set (`v:`), in the order of the list."""
    keyed = {_key(key[2:]): below for key, below in fields.items() if key.startswith("k:")}
    names = {tuple(name for name, _ in key) for key in keyed}
    for value in values:
        if isinstance(value, dict):
            keys = (tuple((name, value.get(name)) for name in each) for each in names)
            below = next((keyed[key] for key in keys if key in keyed), None)
            if below is not None:
                yield extract(value, below)
        elif f"v:{json.dumps(value)}" in fields:
            yield value


@lru_cache(maxsize=4096)
def _key(text: str) -> _Key:
    return tuple(sorted(json.loads(text).items()))


def owned_digest(body: Mapping[str, Any]) -> str:
    """A digest of all that is ours of a live object; equal to `manifest_digest` of what we would apply, as a rule.

    Where it is not, because the API server writes a value in another way than we do, nothing but an apply that changes
    nothing follows. Where a repair was not ended it never is, because the apply that follows ends it.
    """
    fields = applied_fields(body["metadata"])
    if not fields or repair_entry(body["metadata"]) is not None:
        return ""
    return manifest_digest(extract(body, fields))


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """A digest of what a manifest asks for, however quantities are spelled."""
    metadata = manifest.get("metadata") or {}
    content = {key: value for key, value in manifest.items() if key not in _HEAD}
    content["metadata"] = {key: metadata.get(key) for key in _CONTENT_OF_METADATA}
    return digest(_normal(content), 32)


def _normal(value: Any, parent: str = "") -> Any:  # noqa: ANN401 - any JSON
    """A value without what the API server drops (what is empty) or adds (defaults), and quantities as numbers."""
    if isinstance(value, dict):
        inherited = parent in _QUANTITIES
        normal = {}
        for key, one in value.items():
            # Most values are plain text, which a call each would make twice as slow.
            plain = type(one) is str and not inherited and key not in _QUANTITIES
            below = one if plain else _normal(one, parent if inherited else key)
            if below not in _NOTHING and _DEFAULTS.get(key) != below:
                normal[key] = below
        return normal
    if isinstance(value, list | tuple):
        return [_normal(one) for one in value]
    return _quantity(value) if parent in _QUANTITIES else value


def _quantity(value: object) -> object:
    try:
        return str(to_number(str(value)).normalize())
    except ValueError:
        return value
