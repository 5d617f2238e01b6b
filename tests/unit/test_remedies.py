"""Sentences of a Job name the field of the spec that heals what they tell of."""

from __future__ import annotations

import pytest

from vllm_operator.api.model_spec import Files, Model
from vllm_operator.engine.source import identity
from vllm_operator.plan.inspection import read
from vllm_operator.plan.remedies import remedy
from vllm_operator.report import Failed, Reason, render_report

# Their sentences name spec.model.facts themselves.
NAMED = {Reason.CONFIG_MISSING, Reason.CONFIG_UNREADABLE, Reason.CONFIG_TOO_LARGE}


@pytest.mark.parametrize("reason", sorted(set(Reason) - NAMED))
def test_a_field_of_the_spec_is_named(reason: Reason) -> None:
    said = remedy(Failed(reason, "acme/chat is not what it should be."))
    assert said.startswith("acme/chat is not what it should be. In this resource: ")
    assert "spec." in said


@pytest.mark.parametrize("reason", sorted(NAMED))
def test_sentences_that_name_one_are_left_alone(reason: Reason) -> None:
    assert remedy(Failed(reason, "give the numbers in spec.model.facts.")) == "give the numbers in spec.model.facts."


def test_a_look_at_a_model_says_it_too() -> None:
    failed = Failed(Reason.WEIGHTS, "acme/chat has no weights: change --include or --exclude.")
    assert "see spec.model.source and spec.model.files" in read("hf://acme/chat@main", render_report(failed)).message


def test_other_files_are_looked_at_anew() -> None:
    model = Model(source="hf://acme/chat")
    assert identity(model) == "hf://acme/chat@main"
    others = [identity(model.model_copy(update={"files": Files(include=(one,))})) for one in ("*.json", "*.txt")]
    assert len({identity(model), *others}) == 3


def test_a_claim_is_known_by_its_path() -> None:
    assert identity(Model(source="pvc://models/chat")) == "pvc://models/chat"
