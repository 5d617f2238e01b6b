"""From YAML to a checked resource: as strict as the API server, in its words."""

from __future__ import annotations

from typing import Any

import pytest

from api_verdicts import VERDICTS, Verdict, resource
from vllm_operator.api.parse import MOST_LEVELS, parse, parse_manifest, parse_spec
from vllm_operator.api.spec import Spec
from vllm_operator.api.strict import unknown_fields
from vllm_operator.errors import InvalidSpec

MODEL = {"source": "hf://Qwen/Qwen3-8B"}


def _problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        parse_manifest(raw)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("case", VERDICTS, ids=lambda case: case.name)
def test_verdict(case: Verdict) -> None:
    if case.accepted:
        assert isinstance(parse_manifest(case.document).spec, Spec)
    else:
        assert _problems(case.document)


def test_every_problem_is_reported_with_its_path_and_value() -> None:
    spec = {
        "model": {"source": "gpt2"},
        "replicas": "3",
        "engine": {"env": [{"name": "A"}, {"name": "B-C"}], "profile": "fast"},
    }
    source, profile, name, replicas = _problems(resource(spec))
    assert source.startswith("spec.model.source: 'gpt2' is refused: must be hf://organisation/name, ")
    assert profile == (
        "spec.engine.profile: 'fast' is refused: must be one of the supported values: "
        '"Balanced", "Throughput", "Latency", "LongContext"'
    )
    assert name.startswith("spec.engine.env[1].name: 'B-C' is refused: must be letters, digits and _")
    assert replicas == "spec.replicas: '3' is refused: must be of type integer"


def test_all_broken_rules_of_an_object_are_reported() -> None:
    spec = {"model": {"source": "pvc://models", "revision": "v2", "servedNames": ["a", "a"]}}
    (problem,) = _problems(resource(spec))
    assert problem.startswith("spec.model: revision is a branch")
    assert problem.endswith("; servedNames must differ from each other")


def test_identity_comes_from_the_metadata() -> None:
    raw = resource({"model": MODEL})
    assert (parse(raw).namespace, parse(raw, "team").namespace) == ("default", "team")
    raw["metadata"] |= {"namespace": "prod", "uid": "u", "generation": 7}
    found = parse(raw, "team")
    assert (found.name, found.namespace, found.uid, found.generation) == ("x", "prod", "u", 7)


@pytest.mark.parametrize("metadata", [None, {}, [], "x", {"name": ""}, {"name": 5}, {"name": "Upper"}])
def test_a_name_is_needed(metadata: object) -> None:
    raw = {**resource({"model": MODEL}), "metadata": metadata}
    (problem,) = _problems(raw)
    assert problem.startswith("metadata.name: ")


@pytest.mark.parametrize("change", [{"kind": "Deployment"}, {"apiVersion": "vllm-operator.dev/v2"}])
def test_another_kind_is_refused(change: dict[str, str]) -> None:
    (problem,) = _problems({**resource({"model": MODEL}), **change})
    assert problem.startswith("kind: expected vllm-operator.dev/v1alpha1 VLLMDeployment, found ")


def test_unknown_fields_pass_in_what_a_server_stored_and_not_in_a_file() -> None:
    raw = resource({"model": {**MODEL, "maxLenght": 4096}, "newer": {"field": 1}})
    assert parse(raw).spec == parse_spec({"model": MODEL})
    misspelt, newer = unknown_fields(raw)
    assert str(misspelt) == "spec.model.maxLenght: unknown field: did you mean maxLength?"
    assert newer.field == "spec.newer"


def test_unknown_fields_are_looked_for_where_the_schema_has_a_say() -> None:
    spec = {
        "model": {**MODEL, "facts": {"anything": 1}},
        "podTemplate": {"spec": {"x": 1}},
        "service": {"annotations": {"any.key/x": "y"}},
        "engine": {"env": [{"name": "A", "valueFrom": {"fieldRef": {"x": 1}, "secretRef": {}}}]},
    }
    (problem,) = unknown_fields(resource(spec))
    assert problem.field == "spec.engine.env[0].valueFrom.secretRef"


def test_names_of_python_are_not_names_of_the_resource() -> None:
    assert parse_spec({"model": {**MODEL, "max_length": 1}}).model.max_length == "auto"


def test_what_is_nested_beyond_reason_is_refused_in_words() -> None:
    def nested(levels: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(levels // 2):
            found = {"a": [found]}
        return {"model": MODEL, "podTemplate": found}

    assert parse_spec(nested(MOST_LEVELS - 1)).pod_template
    for levels in (MOST_LEVELS + 1, 100_000):
        with pytest.raises(InvalidSpec, match=r"spec\.podTemplate: must have at most 100 levels of objects and lists"):
            parse_spec(nested(levels))
