"""Which fields of a live object the operator owns, by the API server's own record, and ways to spoil each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_operator.naming import FIELD_MANAGER

Manifest = dict[str, Any]
Path = tuple[str | int, ...]

# Values that only others of an enumeration may replace.
_OTHER_WORD = {
    "ClusterIP": "NodePort",
    "Exists": "Equal",
    "FallbackToLogsOnError": "File",
    "IfNotPresent": "Always",
    "Ingress": "Egress",
    "NoSchedule": "NoExecute",
    "OnRootMismatch": "Always",
    "RuntimeDefault": "Unconfined",
    "TCP": "UDP",
}
_QUANTITY = re.compile(r"(\d+)(m|[KMGT]i)?")


@dataclass(frozen=True, slots=True)
class Field:
    """An owned field: where it is in the live object, and whether it is an item of a list with keys."""

    path: Path
    is_item: bool = False

    def __str__(self) -> str:
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)

    @property
    def pointer(self) -> str:
        """The path as a JSON pointer (RFC 6901)."""
        return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in self.path)


def owned_fields(live: Manifest) -> list[Field]:
    """Return every field that the operator's server-side apply owns, from `managedFields`."""
    entries = live["metadata"]["managedFields"]
    applied = [one for one in entries if (one["manager"], one["operation"]) == (FIELD_MANAGER, "Apply")]
    return [field for one in applied if not one.get("subresource") for field in _fields(one["fieldsV1"], live, ())]


def _fields(tree: Mapping[str, Any], live: Any, path: Path) -> Iterator[Field]:  # noqa: ANN401 - any JSON
    for key, below in tree.items():
        if key == ".":
            continue
        step, is_item = _step(key, live)
        here = (*path, step)
        if is_item:
            yield Field(here, is_item=True)
        inner = {name: value for name, value in below.items() if not _is_key_of_item(key, name)}
        if set(inner) - {"."}:
            yield from _fields(inner, live[step], here)
        elif not is_item:
            yield Field(here)


def _is_key_of_item(item: str, name: str) -> bool:
    """Whether a field is a key of its list item: to change it is to remove the item and add somebody else's."""
    return item.startswith("k:") and name.removeprefix("f:") in json.loads(item[2:])


def _step(key: str, live: Any) -> tuple[str | int, bool]:  # noqa: ANN401 - any JSON
    """Return the part of a path that a key of FieldsV1 stands for, and whether that is an item of a list.

    The keys are those of structured-merge-diff, fieldpath/serialize-pe.go.
    """
    kind, _, rest = key.partition(":")
    if kind == "f":
        return rest, False
    if kind == "k":
        wanted = json.loads(rest)
        return next(i for i, item in enumerate(live) if wanted.items() <= item.items()), True
    return live.index(json.loads(rest)), True


def value_at(live: Any, path: Path) -> Any:  # noqa: ANN401 - any JSON
    """Return what is at a path."""
    for part in path:
        live = live[part]
    return live


def owned_values(live: Manifest) -> dict[str, Any]:
    """Return the owned fields by their paths, list items left out: what the operator asks for."""
    return {str(field): value_at(live, field.path) for field in owned_fields(live) if not field.is_item}


def spoilers(field: Field, live: Manifest) -> Iterator[list[dict[str, Any]]]:
    """Yield JSON patches that spoil a field, the likeliest to be accepted by the API server first."""
    if not field.is_item:
        for value in _others(value_at(live, field.path)):
            yield [{"op": "replace", "path": field.pointer, "value": value}]
    yield [{"op": "remove", "path": field.pointer}]


def _others(value: Any) -> Iterator[Any]:  # noqa: ANN401 - any JSON
    """Yield values other than `value` that might be valid in its place."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield value - 1
    elif isinstance(value, str):
        yield from _other_words(value)
    elif isinstance(value, list):
        yield from _other_lists(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            for other in _others(inner):
                yield {**value, key: other}


def _other_words(value: str) -> Iterator[str]:
    if value in _OTHER_WORD:
        yield _OTHER_WORD[value]
    if quantity := _QUANTITY.fullmatch(value):
        yield f"{int(quantity[1]) + 1}{quantity[2] or ''}"
    yield f"{value}-x"
    yield f"{value}x"


def _other_lists(value: Sequence[Any]) -> Iterator[list[Any]]:
    for index, item in enumerate(value):
        for other in _others(item):
            yield [*value[:index], other, *value[index + 1 :]]
    yield list(value[:-1])


# Written by others into every object; not part of what is asked for.
_BOOKKEEPING = ("managedFields", "resourceVersion", "generation", "creationTimestamp")
_OTHERS_ANNOTATIONS = ("deployment.kubernetes.io/",)


def content(live: Manifest) -> Manifest:
    """Return an object without its status and without what others keep in its metadata."""
    metadata = {key: value for key, value in live["metadata"].items() if key not in _BOOKKEEPING}
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {
        key: value for key, value in annotations.items() if not key.startswith(_OTHERS_ANNOTATIONS)
    }
    return {**{key: value for key, value in live.items() if key != "status"}, "metadata": metadata}
