"""Properties of every valid spec, and proof that the strategy reaches every field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import Phase, given, seed, settings

from strategies import valid_specs
from vllm_operator.api.crd import schema_of
from vllm_operator.api.parse import parse_spec
from vllm_operator.api.reference import fields
from vllm_operator.api.spec import Spec
from vllm_operator.api.strict import unknown_fields

FIELDS = {path for path, _ in fields(schema_of(Spec), "spec")}
ROUNDS = 20
QUICK = settings(max_examples=200, deadline=None, database=None)


@QUICK
@given(valid_specs())
def test_a_valid_spec_survives_json(raw: dict[str, Any]) -> None:
    spec = parse_spec(raw)
    assert Spec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec
    assert parse_spec(spec.model_dump(mode="json", by_alias=True, exclude_none=True)) == spec


@QUICK
@given(valid_specs())
def test_a_valid_spec_holds_no_unknown_field(raw: dict[str, Any]) -> None:
    assert unknown_fields({"spec": raw}) == ()


def _paths(value: Any, path: str) -> Iterator[str]:  # noqa: ANN401 - any part of a spec
    yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _paths(child, f"{path}.{key}")
    if isinstance(value, list):
        for child in value:
            yield from _paths(child, f"{path}[]")


def test_strategy_draws_every_field() -> None:
    drawn: set[str] = set()

    @settings(max_examples=500, deadline=None, database=None, phases=(Phase.generate,))
    @given(valid_specs())
    def draw(raw: dict[str, Any]) -> None:
        drawn.update(_paths(raw, "spec"))

    # What is drawn from one seed depends on what the process has imported; a field that is drawn at all comes soon.
    for number in range(ROUNDS):
        seed(number)(draw)()
        if drawn >= FIELDS:
            return
    assert FIELDS - drawn == set()
