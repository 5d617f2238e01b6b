"""Fields that the schema does not know: an API server refuses them when kubectl asks it to (`--validate=strict`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from vllm_operator.api.crd import crd
from vllm_operator.errors import Problem

Schema = Mapping[str, Any]


@cache
def _schema() -> Schema:
    version = crd()["spec"]["versions"][0]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def unknown_fields(raw: Mapping[str, Any]) -> tuple[Problem, ...]:
    """One problem for each field of a resource that its schema does not name; metadata is Kubernetes' own business."""
    return tuple(_unknown(raw, _schema(), ""))


def _unknown(value: object, schema: Schema, path: str) -> Iterator[Problem]:
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _unknown(item, schema["items"], f"{path}[{index}]")
    elif isinstance(value, Mapping) and "properties" in schema:
        yield from _unknown_in_object(value, schema["properties"], path)


def _unknown_in_object(value: Mapping[Any, Any], properties: Mapping[str, Schema], path: str) -> Iterator[Problem]:
    for name, child in value.items():
        where = f"{path}.{name}".removeprefix(".")
        if name in properties:
            yield from _unknown(child, properties[name], where)
        else:
            yield Problem(where, _sentence(str(name), properties))


def _sentence(name: str, properties: Mapping[str, Schema]) -> str:
    near = get_close_matches(name, properties, n=1)
    return f"unknown field: did you mean {near[0]}?" if near else f"unknown field: known are {', '.join(properties)}"
