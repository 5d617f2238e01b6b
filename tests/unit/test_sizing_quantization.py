"""`model.quantization`: what goes with which checkpoint, and what formats made while loading take and ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planning import plan_of, spec_of
from vllm_operator.api.model_spec import QUANTIZATIONS
from vllm_operator.sizing import catalogue, gpus
from vllm_operator.sizing.choose import size
from vllm_operator.sizing.facts import ModelFacts, facts_from_config
from vllm_operator.sizing.online import as_requested
from vllm_operator.sizing.types import Offer, ReasonKind, Sizing, SizingRequest, Verdict
from vllm_operator.sizing.weights import GIB, Shape, weights


def known(name: str) -> ModelFacts:
    facts = catalogue.lookup(name)
    assert facts is not None
    return facts


def ask(facts: ModelFacts | str, quantization: str, card: str = "H100", **changes: Any) -> Sizing:  # noqa: ANN401 - fields of a request
    gpu = gpus.lookup(card)
    assert gpu is not None
    model = known(facts) if isinstance(facts, str) else facts
    return size(SizingRequest(model, (Offer(gpu, 8, 1),), quantization=quantization, **changes))


def refused(facts: ModelFacts | str, quantization: str, **changes: Any) -> bool:  # noqa: ANN401 - fields of a request
    reasons = ask(facts, quantization, **changes).reasons
    return [(reason.code, reason.kind) for reason in reasons] == [("QuantizationInvalid", ReasonKind.VALIDITY)]


AWQ, GPTQ = {"awq", "auto_awq", "awq_marlin"}, {"gptq", "auto_gptq", "gptq_marlin"}
TAKEN = {
    "Qwen/Qwen3-8B-FP8": {"fp8", "deepseek_v4_fp8", "humming"},
    "Qwen/Qwen3-8B-AWQ": {*AWQ, "moe_wna16", "humming"},
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": {*GPTQ, "moe_wna16", "humming"},
    "RedHatAI/Meta-Llama-3.1-405B-Instruct-FP8": {"compressed-tensors", "humming"},
}
"""Every method that ModelConfig._verify_quantization of vLLM 0.32.0 let pass for such a checkpoint."""


@pytest.mark.parametrize("name", TAKEN)
def test_a_quantised_checkpoint_takes_what_vllm_takes(name: str) -> None:
    assert {asked for asked in QUANTIZATIONS if not refused(name, asked, card="B200")} == TAKEN[name]


@pytest.mark.parametrize("name", ["openai/gpt-oss-20b", "nvidia/Llama-3.1-70B-Instruct-FP8"])
def test_some_checkpoints_go_before_whatever_is_asked(name: str) -> None:
    assert not any(refused(name, asked) for asked in QUANTIZATIONS)


def test_a_plain_checkpoint_takes_what_quantises_while_loading() -> None:
    passed = {asked for asked in QUANTIZATIONS if not refused("Qwen/Qwen3-8B", asked, card="B200")}
    assert passed == {
        "fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only", "nvfp4_per_token",
        "mxfp8", "mxfp4", "online", "gpt_oss_mxfp4", "deepseek_v4_fp8", "experts_int8", "humming",
    }  # fmt: skip


def test_refusals_quote_vllm_and_name_the_way_out() -> None:
    other = ask("Qwen/Qwen3-8B-FP8", "awq")
    assert "in the model config (fp8) does not match" in other.explanation
    assert "Leave model.quantization unset: Qwen/Qwen3-8B-FP8 is quantised already." in other.explanation
    assert other.nearest_fit == "It fits with quantization left unset: 1 x H100 (TP 1)."
    plain = ask("Qwen/Qwen3-32B", "awq", "L40S", gpus=1)
    assert "while loading with model.quantization fp8" in plain.explanation
    assert plain.nearest_fit == "It fits with the quantised checkpoint Qwen/Qwen3-32B-AWQ: 1 x L40S (TP 1)."


def test_what_may_be_quantised_after_all_is_not_refused() -> None:
    plain = known("Qwen/Qwen3-8B")
    assert refused(plain, "gptq")
    assert not refused(replace(plain, file_bytes=6 * GIB), "gptq")  # quantize_config.json beside config.json
    assert not refused(plain, "gptq", overridden=True)
    unknown = facts_from_config(
        {"architectures": ["NewForCausalLM"], "hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
         "intermediate_size": 1024, "vocab_size": 32000}, file_bytes=GIB,
    )  # fmt: skip
    assert not refused(unknown, "gptq")


def test_advisory_does_not_try_what_vllm_refuses() -> None:
    model = {"source": "hf://Qwen/Qwen3-8B", "quantization": "gptq"}
    refusal = plan_of(spec_of(model=model, sizing={"mode": "Advisory"})).refusal
    assert refusal is not None
    assert refusal.reason == "QuantizationInvalid"


def loaded(name: str, quantization: str) -> float:
    facts = known(name)
    return weights(as_requested(facts, SizingRequest(facts, (), quantization=quantization)), Shape())[0].total / GIB


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [("fp8", 8), ("fp8_per_tensor", 8), ("fp8_per_channel", 8), ("fp8_per_block", 8), ("mxfp8", 8.25), ("mxfp4", 4.25)],
)
def test_what_is_quantised_while_loading_takes_its_own_bytes(quantization: str, bits: float) -> None:
    kept = 2 * 151936 * 5120 * 2 / GIB  # embedding and output layer
    assert loaded("Qwen/Qwen3-32B", quantization) == pytest.approx(kept + (61.03 - kept) * bits / 16, abs=0.1)


@pytest.mark.parametrize(
    ("quantization", "bits"), [("int8_per_channel_weight_only", 8), ("experts_int8", 8), ("nvfp4_per_token", 4.5)]
)
def test_some_formats_are_for_experts_alone(quantization: str, bits: float) -> None:
    experts = 48 * 128 * 3 * 2048 * 768 * 2 / GIB
    kept = loaded("Qwen/Qwen3-30B-A3B", "online") - experts
    assert loaded("Qwen/Qwen3-30B-A3B", quantization) == pytest.approx(kept + experts * bits / 16, rel=0.005)
    assert loaded("Qwen/Qwen3-32B", quantization) == loaded("Qwen/Qwen3-32B", "online")
    assert "is for experts, and this model has none" in ask("Qwen/Qwen3-8B", quantization).explanation


def test_a_32b_model_fits_one_l40s_in_fp8_by_channel() -> None:
    assert ask("Qwen/Qwen3-32B", "fp8_per_channel", "L40S", gpus=1).verdict is Verdict.FITS


@pytest.mark.parametrize(
    ("name", "quantization", "card", "said"),
    [
        ("Qwen/Qwen3-8B", "fp8_per_channel", "A100-80", "needs compute capability 8.9 or later"),
        ("Qwen/Qwen3-30B-A3B", "nvfp4_per_token", "H100", "needs compute capability 10.x"),
        ("Qwen/Qwen3-8B", "mxfp8", "T4", "no FP8 arithmetic"),
        ("Qwen/Qwen3-8B", "mxfp8", "V100-32", "MXFP8 needs compute capability 7.5"),
    ],
)
def test_a_card_must_be_able_to_compute_it(name: str, quantization: str, card: str, said: str) -> None:
    answer = ask(name, quantization, card)
    assert {reason.code for reason in answer.reasons} == {"UnsupportedQuantization"}
    assert said in answer.explanation


@pytest.mark.parametrize(
    ("name", "quantization", "card"),
    [
        ("Qwen/Qwen3-8B", "fp8_per_channel", "L4"),
        ("Qwen/Qwen3-8B", "mxfp8", "A100-80"),
        ("Qwen/Qwen3-30B-A3B", "nvfp4_per_token", "B200"),
        ("Qwen/Qwen3-8B", "nvfp4_per_token", "H100"),  # nothing of it is quantised, so no kernel is needed
    ],
)
def test_and_one_that_can_is_taken(name: str, quantization: str, card: str) -> None:
    assert ask(name, quantization, card).verdict is Verdict.FITS


def test_groups_of_32_may_not_be_cut() -> None:
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "num_hidden_layers": 4,
              "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 2592, "vocab_size": 32000,
              "max_position_embeddings": 8192}  # fmt: skip
    answer = ask(facts_from_config(config), "mxfp8", tensor=2)
    assert [reason.code for reason in answer.reasons] == ["QuantGroupMisaligned"]
    assert "MXFP8 requires input_size_per_partition (1296) to be divisible by 32." in answer.explanation
