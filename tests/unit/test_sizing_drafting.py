"""A draft model beside the model: its weights, its part of the KV cache, and how sure the answer is without them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from planning import fleet_offers, plan_of, resource, spec_of
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.sizing import catalogue, gpus
from vllm_operator.sizing.choose import size
from vllm_operator.sizing.drafting import draft_facts, with_doubt
from vllm_operator.sizing.facts import ModelFacts, facts_from_config
from vllm_operator.sizing.memory import Settings, pools
from vllm_operator.sizing.tables import load_tables
from vllm_operator.sizing.terms import Load
from vllm_operator.sizing.types import Offer, ParameterCount, ReasonKind, Sizing, SizingRequest, Verdict
from vllm_operator.sizing.versions import terms_of
from vllm_operator.sizing.weights import GIB, Shape

Draft = str | ModelFacts | ParameterCount | None

LARGE, SMALL = "Qwen/Qwen3-32B", "Qwen/Qwen3-8B"
SETTINGS = Settings(Load(8192, 256, 8192, speculative=True, drafts=True, speculative_tokens=4), terms_of("0.32"), 0.9)


def known(name: str) -> ModelFacts:
    facts = catalogue.lookup(name)
    assert facts is not None
    return facts


def request(model: str, draft: Draft, card: str = "H100", **changes: Any) -> SizingRequest:  # noqa: ANN401 - fields of a request
    gpu = gpus.lookup(card)
    assert gpu is not None
    asked = {"speculative_method": "draft_model", "speculative_tokens": 4, **changes}
    drafts = known(draft) if isinstance(draft, str) else draft
    return SizingRequest(known(model), (Offer(gpu, 8, 1),), draft=drafts, **asked)


def ask(model: str, draft: Draft, card: str = "H100", **changes: Any) -> Sizing:  # noqa: ANN401 - fields of a request
    return size(request(model, draft, card, **changes))


def weights_of(answer: Sizing) -> tuple[float, float]:
    assert answer.per_gpu is not None
    return answer.per_gpu.weights, answer.per_gpu.draft


def test_a_draft_model_that_does_not_fit_beside_the_model_is_refused() -> None:
    assert ask(LARGE, None, gpus=1, speculative_method=None).verdict is Verdict.FITS
    answer = ask(LARGE, SMALL, gpus=1)
    assert [reason.code for reason in answer.reasons] == ["WeightsExceedMemory"]
    assert "76.30 GiB (15.27 of it the draft model's) on H100, which grants 71.26" in answer.explanation


def test_it_is_split_as_the_model_is_and_adds_to_every_token() -> None:
    alone, answer = ask(LARGE, None, gpus=2, speculative_method=None), ask(LARGE, SMALL, gpus=2)
    assert weights_of(answer)[0] - weights_of(alone)[0] == pytest.approx(7.64, abs=0.01)
    assert "weights take 38.16 (7.64 of it the draft model's)" in answer.explanation
    assert alone.kv_bytes_per_token == pytest.approx(131072, rel=0.001)
    assert answer.kv_bytes_per_token == pytest.approx(131072 + 73728, rel=0.001)


def test_the_way_out_may_be_to_do_without() -> None:
    asked = request("Qwen/Qwen3-8B", "Qwen/Qwen3-4B", "L4")
    answer = size(replace(asked, offers=(replace(asked.offers[0], gpus_per_node=1),)))
    assert answer.nearest_fit == "It fits with no draft model: 1 x L4 (TP 1)."


def test_the_last_stage_of_a_pipeline_has_all_of_it() -> None:
    large, small = known(LARGE), known(SMALL)
    alone, both = pools(large, Shape(1, 2), SETTINGS), pools(large, Shape(1, 2), SETTINGS, small)
    assert [pool.block_bytes for pool in both] == [alone[0].block_bytes, alone[1].block_bytes + 147456 * 16]
    assert weights_of(ask(LARGE, SMALL, "L40S", tensor=2, pipeline=2))[1] == pytest.approx(7.64, abs=0.01)


def test_beside_latent_attention_all_blocks_hold_64_tokens() -> None:
    latent, small = known("deepseek-ai/DeepSeek-V3"), known(SMALL)
    (pool,) = pools(latent, Shape(8), SETTINGS, small)
    assert len(pool.groups) == 1
    assert pool.block_bytes == 64 * (70272 + 147456 // 8)


def test_it_is_loaded_in_the_models_dtype_and_not_quantised_with_it() -> None:
    half = weights_of(ask(LARGE, SMALL, "B200", gpus=2))[1]
    assert weights_of(ask(LARGE, SMALL, "B200", gpus=2, quantization="fp8"))[1] == half
    assert weights_of(ask(LARGE, SMALL, "B200", gpus=2, dtype="float32"))[1] == pytest.approx(2 * half, rel=0.01)


def test_a_draft_model_of_which_only_the_parameters_are_known_makes_an_estimate() -> None:
    answer = ask(LARGE, ParameterCount("acme/draft-3B", 3), gpus=2)
    assert answer.verdict is Verdict.ESTIMATED
    assert weights_of(answer)[1] == pytest.approx(3e9 / GIB, abs=0.01)
    assert "estimated by its number of parameters alone: 3 billion parameters x 2 bytes = 6 GB" in answer.explanation
    assert ask(LARGE, ParameterCount("acme/draft-13B", 13), gpus=1).verdict is Verdict.REFUSED


def test_a_draft_model_of_which_nothing_is_known_is_no_plain_fit() -> None:
    answer = ask(LARGE, None, gpus=2)
    assert answer.verdict is Verdict.ESTIMATED
    assert answer.explanation.startswith("Nothing is known of the draft model: it was counted as one layer")


def test_a_doubt_makes_no_other_verdict_surer() -> None:
    asked = request(LARGE, None)
    assert with_doubt(asked, Sizing(Verdict.TIGHT, "close")).verdict is Verdict.TIGHT
    refused = Sizing(Verdict.REFUSED, "no")
    assert with_doubt(asked, refused) == refused


@pytest.mark.parametrize("method", ["ngram", "suffix", "mtp", "eagle", "eagle3", "medusa", "mlp_speculator"])
def test_other_methods_load_no_whole_model(method: str) -> None:
    answer = ask(LARGE, SMALL, gpus=2, speculative_method=method)
    assert (answer.verdict, weights_of(answer)[1]) == (Verdict.FITS, 0.0)
    assert answer == ask(LARGE, None, gpus=2, speculative_method=method)


def test_a_draft_model_must_share_the_models_vocabulary() -> None:
    answer = ask("Qwen/Qwen2.5-72B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", gpus=4)
    assert [(reason.code, reason.kind) for reason in answer.reasons] == [
        ("DraftVocabularyDiffers", ReasonKind.VALIDITY)
    ]
    assert "Target model vocab_size=152064. Draft model vocab_size=151936." in answer.explanation


def test_its_heads_must_divide_too() -> None:
    answer = ask("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", tensor=4)
    assert [reason.code for reason in answer.reasons] == ["HeadsNotDivisible"]
    assert "Draft model Qwen/Qwen2.5-0.5B-Instruct: Total number of attention heads (14) must be" in answer.explanation


def test_the_card_must_compute_it_too() -> None:
    answer = ask("Qwen/Qwen3-8B", "Qwen/Qwen3-8B-FP8", "V100-32")
    assert [reason.code for reason in answer.reasons] == ["UnsupportedQuantization"]
    assert answer.explanation.startswith("Draft model Qwen/Qwen3-8B-FP8: FP8 needs compute capability 7.5")


def test_a_draft_model_whose_config_is_not_readable_is_refused() -> None:
    answer = ask(LARGE, facts_from_config({"architectures": ["X"], "hidden_size": "?"}, "acme/odd"))
    assert [reason.code for reason in answer.reasons] == ["ConfigUnreadable"]
    assert "The draft model acme/odd cannot be sized" in answer.explanation


def test_experts_of_a_draft_model_are_dealt_out_only_where_it_has_some() -> None:
    asked = request("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-0.6B", gpus=2, expert=True)
    assert draft_facts(asked) == known("Qwen/Qwen3-0.6B")
    assert size(asked).verdict is Verdict.FITS
    assert size(replace(asked, draft=known("Qwen/Qwen3-30B-A3B"))).verdict is Verdict.FITS


def speculating(draft: str) -> dict[str, Any]:
    return spec_of(
        model={"source": "hf://Qwen/Qwen3-32B", "maxLength": 8192},
        gpu={"product": "NVIDIA-H100-80GB-HBM3", "count": 2},
        engine={"speculative": {"method": "draft_model", "model": draft}},
    )


@pytest.mark.parametrize(
    ("draft", "taken", "said"),
    [
        ("hf://qwen/qwen3-0.6b", 0.56, []),
        ("hf://acme/draft-3b", 2.79, ["SizeEstimated"]),
        ("hf://acme/draft", 0.0, ["SizeEstimated"]),
    ],
)
def test_a_spec_names_its_draft_model(draft: str, taken: float, said: list[str]) -> None:
    plan = plan_of(speculating(draft))
    assert plan.refusal is None
    assert plan.sizing is not None
    assert weights_of(plan.sizing)[1] == pytest.approx(taken, abs=0.01)
    assert [warning.reason for warning in plan.warnings] == said


def test_a_draft_model_of_the_operators_own_table_is_known() -> None:
    row = catalogue.row("Qwen/Qwen3-0.6B")
    assert row is not None
    tables = load_tables(json.dumps({"models": {"acme/draft": {"config": row["config"]}}}))
    assert tables.bad == ()
    plan = make_plan(resource(speculating("hf://acme/draft")), Defaults(tables=tables), Facts(offers=fleet_offers()))
    assert plan.sizing is not None
    assert plan.sizing.verdict is Verdict.FITS
    assert weights_of(plan.sizing)[1] == pytest.approx(0.56, abs=0.01)
