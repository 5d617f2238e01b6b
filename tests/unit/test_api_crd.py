"""The CRD: what an API server and kubectl demand of a schema, and that it says what the models say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from vllm_operator.api.base import ApiObject
from vllm_operator.api.crd import crd, crd_yaml, schema_of
from vllm_operator.api.parse import parse_spec
from vllm_operator.api.reference import fields
from vllm_operator.api.spec import Spec
from vllm_operator.api.status import Status

# kubectl apply keeps the whole object in an annotation, and annotations are limited to this.
MAX_BYTES = 256 * 1024
SPEC = list(fields(schema_of(Spec), "spec"))
STATUS = list(fields(schema_of(Status), "status"))


def test_client_side_apply_can_hold_it() -> None:
    assert len(json.dumps(crd())) < MAX_BYTES / 2


def test_the_committed_file_is_what_the_models_say() -> None:
    committed = Path(__file__).parents[2] / "crds" / "vllmdeployments.yaml"
    assert committed.read_text() == crd_yaml()
    assert yaml.safe_load(crd_yaml()) == crd()


@pytest.mark.parametrize(("path", "schema"), SPEC, ids=[path for path, _ in SPEC])
def test_whatever_a_rule_may_look_at_is_bounded(path: str, schema: Mapping[str, Any]) -> None:
    # Without a bound the API server assumes the worst length, and refuses rules for what they might cost.
    for node in (schema, schema.get("items", {}), schema.get("additionalProperties", {})):
        if node.get("type") == "string" or node.get("x-kubernetes-int-or-string"):
            assert "maxLength" in node or "enum" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        if node.get("type") in ("integer", "number"):
            assert {"minimum", "maximum"} <= node.keys(), path


@pytest.mark.parametrize(("path", "schema"), SPEC + STATUS, ids=[path for path, _ in SPEC + STATUS])
def test_every_field_is_described_and_has_one_type(path: str, schema: Mapping[str, Any]) -> None:
    assert len(schema["description"]) > 10, path
    assert not {"anyOf", "oneOf", "allOf", "not", "$ref", "nullable"} & schema.keys()
    typed = "type" in schema
    assert typed != bool(schema.get("x-kubernetes-int-or-string"))


def test_rules_are_short_enough_to_be_shown() -> None:
    rules = [rule for _, schema in SPEC for rule in schema.get("x-kubernetes-validations", ())]
    assert len(rules) > 40
    assert all(0 < len(rule["message"]) <= 2048 and "\n" not in rule["message"] for rule in rules)


def _defaulted(schema: Mapping[str, Any], value: Any) -> Any:  # noqa: ANN401 - any part of a resource
    """What an API server makes of a value: defaults for what is absent, then the same inside."""
    if isinstance(value, list):
        return [_defaulted(schema.get("items", {}), item) for item in value]
    if not isinstance(value, Mapping) or "properties" not in schema:
        return value
    properties: Mapping[str, Mapping[str, Any]] = schema["properties"]
    filled = {name: child["default"] for name, child in properties.items() if "default" in child} | dict(value)
    return {name: _defaulted(properties.get(name, {}), child) for name, child in filled.items()}


MINIMAL: tuple[dict[str, Any], ...] = (
    {"model": {"source": "hf://a/b"}},
    {"model": {"source": "hf://a/b", "files": {}, "tokenSecretRef": {"name": "t"}}, "gpu": {}, "cache": {}},
    {"model": {"source": "hf://a/b"}, "engine": {"speculative": {}, "structuredOutputs": {}, "env": [{"name": "A"}]}},
    {"model": {"source": "hf://a/b"}, "autoscaling": {"maxReplicas": 2}, "networkPolicy": {}},
    {"model": {"source": "hf://a/b"}, "auth": {"apiKeySecretRef": {"name": "k"}}},
    {"model": {"source": "hf://a/b"}, "engine": {"lora": {"adapters": [{"name": "a", "source": "hf://a/c"}]}}},
)


@pytest.mark.parametrize("spec", MINIMAL)
def test_defaults_are_the_same_on_both_sides(spec: dict[str, Any]) -> None:
    filled = _defaulted(schema_of(Spec), spec)
    assert parse_spec(filled) == parse_spec(spec)
    dumped = parse_spec(spec).model_dump(mode="json", by_alias=True, exclude_none=True)
    # An empty object of any shape has no default in the schema: to be absent is to be empty.
    assert filled == _without_empty_objects(dumped, spec)


def _without_empty_objects(value: Any, given: Any) -> Any:  # noqa: ANN401 - any part of a resource
    if isinstance(value, list):
        return [_without_empty_objects(item, given[index] if given else {}) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    given = given if isinstance(given, dict) else {}
    return {
        name: _without_empty_objects(child, given.get(name))
        for name, child in value.items()
        if child != {} or name in given
    }


def test_a_default_is_the_whole_object_so_that_rules_can_read_it() -> None:
    properties = schema_of(Spec)["properties"]
    assert properties["cache"]["default"]["claimName"] == ""
    assert properties["engine"]["default"]["env"] == []
    for name in ("gpu", "parallelism", "cache", "engine", "service", "lifecycle"):
        defaults = {key for key, child in properties[name]["properties"].items() if "default" in child}
        assert set(properties[name]["default"]) == defaults


class _Union(ApiObject):
    field: int | list[str]
    """A field."""


class _Recursive(ApiObject):
    field: _Recursive | None = None
    """A field."""


class _Pattern(ApiObject):
    field: dict[str, int] = Field(json_schema_extra={"patternProperties": {}})
    """A field."""


@pytest.mark.parametrize(
    ("model", "words"),
    [(_Union, "union"), (_Recursive, "refers to itself"), (_Pattern, "cannot be said in a structural schema")],
)
def test_what_a_structural_schema_cannot_say_is_refused(model: Any, words: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=words):
        schema_of(model)


def test_bounds_and_constants_are_spelled_as_in_openapi_3() -> None:
    class Bounded(ApiObject):
        share: float = Field(gt=0, lt=1)
        only: Literal["A"] = "A"
        names: ClassVar[int] = 1

    properties = schema_of(Bounded)["properties"]  # type: ignore[arg-type]
    assert properties["share"] == {
        "type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": True,
    }  # fmt: skip
    assert properties["only"] == {"type": "string", "enum": ["A"], "default": "A"}


def test_models_of_the_api_are_immutable() -> None:
    pending: list[type[BaseModel]] = [ApiObject]
    while pending:
        model = pending.pop()
        assert model.model_config["frozen"]
        pending += model.__subclasses__()
