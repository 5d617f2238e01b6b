"""The reference of every field, as Markdown, from the schema that the API server holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vllm_operator.api import GROUP, KIND, VERSION
from vllm_operator.api.crd import COLUMNS, schema_of
from vllm_operator.api.spec import Spec
from vllm_operator.api.status import Status

Schema = Mapping[str, Any]

_DEEPEST_HEADING = 4

_HEAD = f"""\
<!-- Generated from operator/vllm_operator/api by `make crd`; do not edit. -->
# {KIND} reference

API version `{GROUP}/{VERSION}`, kind `{KIND}`, short names `vd` and `vllm`.
In a terminal `kubectl explain vllmdeployment.spec --recursive` says the same. A field without a default is unset until
you set it; `required` stands where it must be set as soon as its object is there. Where a rule does not hold, the API
server answers with the sentence given here.
"""


def markdown() -> str:
    """The whole document; the same for the same models."""
    parts = [_HEAD, *_sections(schema_of(Spec), "spec"), *_sections(schema_of(Status), "status"), _columns()]
    return "\n".join(parts).rstrip() + "\n"


def fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Path and schema of every field below `path`, objects before what they hold; `[]` stands for a list's items."""
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from fields(child, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


def _sections(schema: Schema, path: str) -> Iterator[str]:
    """One section for each object with named fields, in the order of the models."""
    if "properties" in schema:
        yield from _section(schema, path)
    for name, child in schema.get("properties", {}).items():
        yield from _sections(child, f"{path}.{name}")
    if "items" in schema:
        yield from _sections(schema["items"], f"{path}[]")


def _section(schema: Schema, path: str) -> Iterator[str]:
    level = min(path.count(".") + 2, _DEEPEST_HEADING)
    yield f"{'#' * level} `{path}`\n"
    yield f"{schema['description']}\n"
    yield "| field | type | default | what it says |"
    yield "|---|---|---|---|"
    required = schema.get("required", ())
    for name, child in schema["properties"].items():
        default = "required" if name in required else _default(child)
        what = " ".join((_sentence(child["description"]), *_limits(child)))
        yield f"| `{name}` | {_type(child, f'{path}.{name}')} | {default} | {_cell(what)} |"
    yield ""
    rules = [rule["message"] for rule in schema.get("x-kubernetes-validations", ())]
    if rules:
        yield "Rules:\n"
        yield from (f"- {rule}" for rule in rules)
        yield ""


def _type(schema: Schema, path: str) -> str:
    if "enum" in schema:
        return f"one of {', '.join(f'`{value}`' for value in schema['enum'])}"
    if "items" in schema:
        return f"list of {_type(schema['items'], f'{path}[]')}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'], path)}"
    if "properties" in schema:
        return f"[object](#{_anchor(path)})"
    loose = {"x-kubernetes-int-or-string": "integer or string", "x-kubernetes-preserve-unknown-fields": "any object"}
    return next((name for key, name in loose.items() if schema.get(key)), str(schema.get("type")))


def _default(schema: Schema) -> str:
    """What stands in the column: nothing for objects, whose fields have defaults of their own."""
    default = schema.get("default")
    if default is None or isinstance(default, dict):
        return ""
    return f"`{json.dumps(default)}`" if default != "" else "empty"


def _limits(schema: Schema) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        yield f"Above {low:g}, at most {high:g}." if schema.get("exclusiveMinimum") else f"From {low} to {high}."
    if "minItems" in schema:
        yield f"At least {_counted(schema['minItems'], 'item')}."
    if "maxItems" in schema:
        yield f"At most {_counted(schema['maxItems'], 'item')}."
    if "maxProperties" in schema:
        yield f"At most {_counted(schema['maxProperties'], 'entry', 'entries')}."
    if "properties" not in schema:
        yield from (_sentence(rule["message"]) for rule in schema.get("x-kubernetes-validations", ()))
    if "properties" not in schema.get("items", {"properties": ()}):
        yield from (f"Each: {limit[:1].lower()}{limit[1:]}" for limit in _limits(schema["items"]))


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def _sentence(text: str) -> str:
    capital = f"{text[:1].upper()}{text[1:]}"
    return capital if capital.endswith((".", "!", "?")) else f"{capital}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(path: str) -> str:
    """The anchor that GitHub gives the heading of a path."""
    return re.sub(r"[^a-z0-9-]", "", path.lower())


def _columns() -> str:
    rows = [
        f"| {name} | `{path}` | {'always' if priority == 0 else 'with `-o wide`'} | {text} |"
        for name, _, path, priority, text in COLUMNS
    ]
    head = "## Columns of `kubectl get`\n\n| column | field | shown | what it says |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"
