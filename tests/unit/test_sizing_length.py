"""The longest length of a model: YaRN from version to version, and --hf-overrides, which may raise it."""

from __future__ import annotations

from typing import Any

import pytest

from planning import plan_of, spec_of
from vllm_operator.plan.types import Plan
from vllm_operator.sizing import catalogue, gpus
from vllm_operator.sizing.choose import size
from vllm_operator.sizing.facts import facts_from_config
from vllm_operator.sizing.types import Offer, Sizing, SizingRequest, Verdict

STRETCHED = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
}
"""Qwen2.5-7B as its card says to stretch it: the limit stays behind the factor."""


def ask(**changes: Any) -> Sizing:  # noqa: ANN401 - fields of a request
    card = gpus.lookup("H100")
    assert card is not None
    return size(SizingRequest(facts_from_config(STRETCHED, "acme/long"), (Offer(card, 1, 1),), **changes))


@pytest.mark.parametrize(("version", "longest"), [("0.25", 131072), ("0.29", 131072), ("0.30", 32768), ("0.32", 32768)])
def test_a_yarn_factor_counts_in_older_versions_only(version: str, longest: int) -> None:
    """vLLM 0.29.0, 0.30.0, 0.31.0 and 0.32.0 were asked; 0.32.0 refuses 131072 for this very config."""
    assert ask(engine_version=version).max_length == longest
    assert (ask(engine_version=version, max_length=131072).verdict is Verdict.REFUSED) is (longest < 131072)


@pytest.mark.parametrize("change", [{"rope_scaling": {"type": "yarn", "factor": 4.0}}, {"model_type": "gemma3_text"}])
def test_a_yarn_scaling_that_vllm_does_not_apply_changes_nothing(change: dict[str, object]) -> None:
    facts = facts_from_config({**STRETCHED, **change})
    assert (facts.problem, facts.max_length, facts.yarn_length) == ("", 32768, 0)


def test_a_refused_yarn_length_names_the_override_that_gives_it() -> None:
    said = ask(max_length=131072).reasons[0].message
    assert "greater than the derived max_model_len (32768)" in said
    assert """--hf-overrides '{"max_position_embeddings": 131072}' to engine.extraArgs""" in said
    assert "--hf-overrides" not in ask(max_length=131073).reasons[0].message


def test_catalogue_models_with_yarn_have_one_length_in_every_version() -> None:
    found = [facts for name in catalogue.names() if (facts := catalogue.lookup(name)) and facts.yarn_length]
    assert len(found) > 10
    assert [facts.name for facts in found if facts.yarn_length != facts.max_length] == []


def test_an_overridden_config_is_sized_for_the_length_that_is_asked_for() -> None:
    answer = ask(max_length=131072, overridden=True)
    assert (answer.verdict, answer.max_length) == (Verdict.FITS, 131072)
    assert "config.json allows 32,768 tokens: vLLM starts with 131,072 only if --hf-overrides" in answer.explanation
    assert "--hf-overrides" not in ask(max_length=32768, overridden=True).explanation


def test_an_overridden_length_that_does_not_fit_is_refused_for_its_memory() -> None:
    answer = ask(max_length=4_000_000, overridden=True)
    assert [reason.code for reason in answer.reasons] == ["KVCacheTooSmall"]
    longest = int(answer.reasons[0].message.rsplit(" ", 1)[1].rstrip(".").replace(",", ""))
    assert 131072 < longest < 4_000_000


def plan(*arguments: str) -> Plan:
    spec = {"model": {"source": "hf://Qwen/Qwen3-8B", "maxLength": 50000}, "engine": {"extraArgs": list(arguments)}}
    return plan_of(spec_of(**spec))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--hf-overrides", '{"max_position_embeddings": 65536}'),
        ('--hf_overrides={"max_position_embeddings": 65536}',),
        ("--hf-overrides.max_position_embeddings", "65536"),
    ],
)
def test_the_override_is_seen_however_it_is_spelled(arguments: tuple[str, ...]) -> None:
    found = plan(*arguments)
    assert found.refusal is None
    assert found.sizing is not None
    assert "only if --hf-overrides raises that" in found.sizing.explanation


@pytest.mark.parametrize("arguments", [(), ("--seed", "1")])
def test_without_it_the_model_has_the_last_word(arguments: tuple[str, ...]) -> None:
    refusal = plan(*arguments).refusal
    assert refusal is not None
    assert refusal.reason == "LengthBeyondModel"
