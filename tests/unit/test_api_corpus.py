"""Bad resources: the models and the plan refuse each of them in the words that the corpus asks for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from corpus import Bad, bad_resources
from vllm_operator.api.base import ApiObject, Rule
from vllm_operator.api.parse import parse_manifest
from vllm_operator.cluster import schema_errors
from vllm_operator.errors import InvalidSpec
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.render import render

BY_API = bad_resources("api")
BY_CONDITION = bad_resources("condition")


def _refusal(bad: Bad) -> str:
    with pytest.raises(InvalidSpec) as caught:
        parse_manifest(bad.document)
    return str(caught.value)


@pytest.fixture(scope="module")
def refusals() -> list[str]:
    """What the models say to each resource that the API server refuses."""
    return [_refusal(bad) for bad in BY_API]


@pytest.mark.parametrize("bad", BY_API, ids=lambda bad: bad.name)
def test_models_refuse_what_the_api_server_refuses(bad: Bad) -> None:
    message = _refusal(bad)
    assert bad.field in message
    assert bad.says.lower() in message.lower()


@pytest.mark.parametrize("bad", BY_CONDITION, ids=lambda bad: bad.name)
def test_plan_refuses_what_a_condition_reports(bad: Bad) -> None:
    plan = make_plan(parse_manifest(bad.document), Defaults(), Facts())
    if bad.reason == "Rejected":  # the API server says it of a child; tests/cluster/test_crd.py shows that
        assert plan.refusal is None
        return
    assert plan.refusal is not None
    assert plan.refusal.reason == bad.reason
    assert bad.field in plan.refusal.message
    assert bad.says in plan.refusal.message
    assert not plan.children


def test_pod_template_with_an_unknown_field_is_found_offline() -> None:
    bad = next(bad for bad in BY_CONDITION if bad.name == "pod-template-unknown-field")
    manifests = render(make_plan(parse_manifest(bad.document), Defaults(), Facts()))
    errors = [error for manifest in manifests for error in schema_errors(manifest)]
    assert len(errors) == 1
    assert bad.says in errors[0]


def _rules(model: type[ApiObject] = ApiObject) -> Iterator[tuple[str, Rule]]:
    for child in model.__subclasses__():
        yield from ((child.__name__, rule) for rule in child.__dict__.get("RULES", ()))
        yield from _rules(child)


@pytest.mark.parametrize("rule", [rule for _, rule in _rules()], ids=lambda rule: rule.message[:40])
def test_corpus_breaks_every_rule(rule: Rule, refusals: list[str]) -> None:
    # The other end of the same string is what the API server answers: tests/cluster/test_crd.py runs these files there.
    assert any(rule.message in refusal for refusal in refusals)


def test_heads_are_complete() -> None:
    for bad in (*BY_API, *BY_CONDITION):
        assert bad.says, bad.name
        assert bool(bad.reason) == (bad.rejected_by == "condition"), bad.name
        if not bad.name.startswith("name-"):
            assert bad.document["metadata"] == {"name": bad.name}
