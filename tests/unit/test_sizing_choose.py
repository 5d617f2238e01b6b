"""The choice of GPUs and split, refusals with their reason, and the nearest fit."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sizing.points import model
from vllm_operator.sizing import catalogue, gpus
from vllm_operator.sizing.choose import assess, size
from vllm_operator.sizing.facts import ModelFacts, facts_from_config
from vllm_operator.sizing.types import Offer, ParameterCount, ReasonKind, Sizing, SizingRequest, Verdict


def gpu(name: str) -> gpus.GPU:
    found = gpus.lookup(name)
    assert found is not None
    return found


def known(name: str) -> ModelFacts:
    facts = catalogue.lookup(name)
    assert facts is not None
    return facts


def ask(facts: ModelFacts | ParameterCount | str, *offers: tuple[str, int, int], **changes: Any) -> Sizing:  # noqa: ANN401 - fields of a request
    subject = known(facts) if isinstance(facts, str) else facts
    return size(SizingRequest(subject, tuple(Offer(gpu(name), each, nodes) for name, each, nodes in offers), **changes))


def codes(answer: Sizing) -> set[str]:
    return {reason.code for reason in answer.reasons}


LLAMA_70B = "meta-llama/Llama-3.3-70B-Instruct"
LLAMA_405B = "meta-llama/Llama-3.1-405B-Instruct"


def test_7b_fits_an_rtx_4090() -> None:
    answer = ask("meta-llama/Llama-2-7b-chat-hf", ("RTX 4090", 1, 1))
    assert answer.verdict is Verdict.FITS
    assert answer.max_length == 4096
    assert answer.per_gpu is not None
    assert answer.per_gpu.weights == pytest.approx(12.55, abs=0.01)
    assert answer.per_gpu.kv_cache.low > 5.5


def test_70b_fits_two_a100_80_and_no_single_one() -> None:
    answer = ask(LLAMA_70B, ("A100-80", 8, 1))
    assert (answer.verdict, answer.gpus, answer.tensor, answer.pipeline) == (Verdict.FITS, 2, 2, 1)
    assert answer.max_length is not None
    assert 8192 <= answer.max_length < 131072
    assert answer.rejected[0].candidate == "1 x A100-80 (TP 1)"


def test_405b_in_16_bit_is_refused_on_eight_a100_80() -> None:
    answer = ask(LLAMA_405B, ("A100-80", 8, 1), gpus=8)
    assert answer.verdict is Verdict.REFUSED
    assert codes(answer) == {"WeightsExceedMemory"}
    assert "94.53 GiB" in answer.reasons[0].message
    assert "fits with" in answer.nearest_fit


def test_405b_by_its_number_of_parameters_shows_the_arithmetic() -> None:
    answer = ask(ParameterCount("acme/secret-405B", 405), ("A100-80", 8, 1), gpus=8)
    assert answer.verdict is Verdict.REFUSED
    assert "405 billion parameters x 2 bytes = 810 GB" in answer.explanation
    fp8 = ask(ParameterCount("acme/secret-405B-FP8", 405, 1.0), ("A100-80", 8, 1), gpus=8)
    assert fp8.verdict is Verdict.ESTIMATED


def test_405b_takes_eight_h200() -> None:
    answer = ask(LLAMA_405B, ("H200", 8, 2))
    assert (answer.verdict, answer.gpus, answer.tensor, answer.nodes) == (Verdict.FITS, 8, 8, 1)


def test_405b_spans_two_nodes_of_80_gb_with_tensor_parallelism_inside_a_node() -> None:
    answer = ask(LLAMA_405B, ("H100", 8, 2))
    assert (answer.verdict, answer.gpus, answer.tensor, answer.pipeline, answer.nodes) == (Verdict.FITS, 16, 8, 2, 2)


def test_phi_4_on_eight_gpus_uses_a_pipeline_since_its_kv_heads_allow_two() -> None:
    answer = ask("microsoft/phi-4", ("L4", 8, 1), gpus=8)
    assert (answer.tensor, answer.pipeline) == (2, 4)
    refused = ask("microsoft/phi-4", ("L4", 8, 1), tensor=8)
    assert codes(refused) == {"KVHeadsNotDivisible"}
    assert refused.reasons[0].kind is ReasonKind.VALIDITY


@pytest.mark.parametrize("tensor", [2, 4, 8])
def test_an_awq_checkpoint_of_the_unpadded_72b_cannot_be_split_by_tensors(tensor: int) -> None:
    answer = ask("LDCC/Qwen2.5-72B-Instruct-ko-AWQ", ("A100-80", 8, 1), tensor=tensor)
    assert codes(answer) == {"QuantGroupMisaligned"}
    said = " ".join(one.reason.message for one in answer.rejected) + answer.explanation
    assert "not aligned with the quantized weight shape" in said or "not divisible by min_thread_n = 64" in said


def test_it_goes_over_small_cards_as_a_pipeline() -> None:
    answer = ask("LDCC/Qwen2.5-72B-Instruct-ko-AWQ", ("L4", 8, 1))
    assert (answer.verdict, answer.tensor, answer.pipeline) == (Verdict.FITS, 1, 4)


@pytest.mark.parametrize(
    ("tensor", "version", "refused"), [(4, "0.32", False), (8, "0.32", False), (16, "0.32", True), (4, "0.25", True)]
)
def test_blocks_of_fp8_experts_depend_on_the_version(tensor: int, version: str, refused: bool) -> None:  # noqa: FBT001
    request = SizingRequest(
        known("Qwen/Qwen3-30B-A3B-FP8"), (Offer(gpu("H100"), 16, 1),), tensor=tensor, engine_version=version
    )
    answer = assess(request)
    assert answer.expert is refused  # experts are kept whole where their blocks cannot be cut
    assert any(one.reason.code == "QuantGroupMisaligned" for one in answer.rejected) is refused


def test_heads_that_do_not_divide_quote_vllm() -> None:
    answer = ask("meta-llama/Llama-3.1-8B-Instruct", ("H100", 8, 1), tensor=3)
    assert codes(answer) == {"HeadsNotDivisible"}
    assert "Total number of attention heads (32) must be divisible by tensor parallel size (3)." in answer.explanation


def test_inputs_that_contradict_each_other() -> None:
    few = ask("Qwen/Qwen3-8B", ("H100", 8, 1), max_batched_tokens=128)
    assert codes(few) == {"BatchTooSmall"}
    assert "must be greater than or equal to max_num_seqs (256)" in few.explanation
    long = ask("Qwen/Qwen3-8B", ("H100", 8, 1), max_length=100000)
    assert codes(long) == {"LengthBeyondModel"}
    dense = ask("Qwen/Qwen3-8B", ("H100", 8, 1), expert=True)
    assert codes(dense) == {"ExpertParallelUnsupported"}


def test_a_card_without_bfloat16_computes_in_half_unless_told_otherwise() -> None:
    assert ask("Qwen/Qwen3-0.6B", ("T4", 1, 1)).verdict is Verdict.FITS
    answer = ask("Qwen/Qwen3-0.6B", ("T4", 1, 1), dtype="bfloat16")
    assert codes(answer) == {"UnsupportedDtype"}
    assert "--dtype=half" in answer.explanation
    assert codes(ask("google/gemma-2-2b-it", ("T4", 1, 1))) == {"UnsupportedDtype"}


def test_quantisation_needs_a_compute_capability() -> None:
    assert codes(ask("openai/gpt-oss-20b", ("T4", 4, 1))) == {"UnsupportedQuantization"}


def test_too_high_a_utilisation_leaves_no_room_for_the_context() -> None:
    answer = ask("Qwen/Qwen3-0.6B", ("RTX 4090", 1, 1), memory_utilization=0.99)
    assert codes(answer) == {"HeadroomTooSmall"}
    assert "less than desired GPU memory utilization" in answer.explanation


def test_no_offers_is_a_matter_of_inventory() -> None:
    answer = size(SizingRequest(known("Qwen/Qwen3-8B"), ()))
    assert codes(answer) == {"NoGPUNodes"}
    assert answer.reasons[0].kind is ReasonKind.INVENTORY


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"gpus": 16}, "NotEnoughGPUsPerNode"),
        ({"tensor": 16}, "NotEnoughGPUsPerNode"),
        ({"nodes": 2}, "NotEnoughNodes"),
    ],
)
def test_more_than_the_cluster_has(changes: dict[str, int], code: str) -> None:
    answer = ask("Qwen/Qwen3-8B", ("H100", 8, 1), **changes)
    assert codes(answer) == {code}
    assert answer.reasons[0].kind is ReasonKind.INVENTORY


def test_the_cheapest_product_that_fits_is_taken() -> None:
    answer = ask("Qwen/Qwen3-8B", ("H100", 8, 1), ("L4", 8, 1), ("T4", 1, 1))
    assert answer.gpu is not None
    assert answer.gpu.name == "L4"
    assert "cheapest" in answer.explanation


def test_a_length_that_is_too_long_names_the_longest_that_fits() -> None:
    answer = ask(LLAMA_70B, ("A100-80", 2, 1), gpus=2, max_length=131072)
    assert codes(answer) == {"KVCacheTooSmall"}
    assert "40.00 GiB" not in answer.explanation  # divided by two GPUs
    assert "maximum length" in answer.nearest_fit
    length = int(answer.nearest_fit.split("length ")[1].split(" tokens")[0].replace(",", ""))
    assert ask(LLAMA_70B, ("A100-80", 2, 1), gpus=2, max_length=length).verdict is Verdict.FITS


def test_latent_attention_gains_no_cache_from_more_ranks_but_memory() -> None:
    answer = ask("deepseek-ai/DeepSeek-V3", ("H200", 8, 1))
    assert (answer.verdict, answer.tensor) == (Verdict.FITS, 8)
    assert answer.kv_bytes_per_token == pytest.approx(70272, rel=0.001)


def test_states_for_every_sequence() -> None:
    facts = model("Qwen--Qwen3.5-35B-A3B")
    answer = ask(
        facts,
        ("H100", 1, 1),
        language_model_only=True,
        memory_utilization=0.92,
        max_length=32768,
        engine_version="0.25",
    )
    assert codes(answer) == {"StateCacheTooSmall"}
    assert "Mamba cache blocks" in answer.explanation
    assert answer.nearest_fit


def test_a_config_that_is_not_readable_is_refused() -> None:
    answer = ask(facts_from_config({"architectures": ["X"], "hidden_size": "?"}), ("H100", 1, 1))
    assert codes(answer) == {"ConfigUnreadable"}
    assert answer.nearest_fit


def test_given_cache_bytes_are_taken_as_they_are() -> None:
    answer = ask("meta-llama/Llama-3.1-8B-Instruct", ("H100", 1, 1), max_length=8192, kv_cache_bytes=4 * 2**30)
    assert answer.kv_tokens is not None
    assert answer.kv_tokens.low == answer.kv_tokens.high == 4 * 2**30 // 131072


def test_an_unknown_product_is_sized_by_the_memory_on_its_label() -> None:
    card = gpus.unknown_gpu("Acme-X1", 80)
    answer = size(SizingRequest(known("Qwen/Qwen3-8B"), (Offer(card, 1, 1),)))
    assert answer.verdict is Verdict.FITS
    assert answer.per_gpu is not None
    assert answer.per_gpu.capacity == 79.25


def test_explanations_fit_a_status() -> None:
    every = tuple(Offer(one, 8, 2) for one in gpus.gpus().values())
    for name in ("Qwen/Qwen3-8B", LLAMA_405B):
        assert len(size(SizingRequest(known(name), every)).explanation) <= 1024


def test_one_model_over_all_gpus_is_quick() -> None:
    request = SizingRequest(known("deepseek-ai/DeepSeek-V3"), tuple(Offer(one, 8, 1) for one in gpus.gpus().values()))
    assess(request)
    started = time.process_time()
    for _ in range(5):
        assess(request)
    assert (time.process_time() - started) / 5 < 0.1  # 20 ms is the goal; slow machines get room


def test_names_state_parameters_and_formats() -> None:
    found = catalogue.parameters_from_name
    assert found("org/model-7B") == ParameterCount("org/model-7B", 7, 2.0)
    assert found("org/m-1.5b-AWQ") == ParameterCount("org/m-1.5b-AWQ", 1.5, 0.5195)
    assert found("org/mix-8x7B-NVFP4") == ParameterCount("org/mix-8x7B-NVFP4", 56, 0.5625)
    assert found("org/moe-235B-A22B-FP8") == ParameterCount("org/moe-235B-A22B-FP8", 235, 1.0)
    assert found("org/small-350M") == ParameterCount("org/small-350M", 0.35, 2.0)
    assert found("org/nameless") is None


def test_the_catalogue_is_found_whatever_the_case_and_proposes_what_is_near() -> None:
    assert known("qwen/qwen3-8b").name == "Qwen/Qwen3-8B"
    assert "Qwen/Qwen3-8B" in catalogue.near("Qwen/Qwen3-8")
    assert gpus.lookup("nvidia-h100-80gb-hbm3") is gpus.lookup("H100")


def test_a_published_start_of_0_31_lies_in_the_band() -> None:
    asked = {"max_length": 131072, "max_batched_tokens": 2048, "memory_utilization": 0.92, "engine_version": "0.31"}
    answer = ask("meta-llama/Llama-3.1-8B-Instruct", ("A100-80", 1, 1), **asked)
    assert answer.per_gpu is not None
    assert answer.kv_tokens is not None
    assert answer.per_gpu.kv_cache.low <= 56.21 <= answer.per_gpu.kv_cache.high
    assert answer.kv_tokens.low <= 460_496 <= answer.kv_tokens.high


def test_what_is_slow_or_narrow_is_said() -> None:
    pcie = ask("meta-llama/Llama-3.3-70B-Instruct", ("L40S", 8, 1))
    assert "PCIe only is slow" in pcie.explanation
    narrow = ask("Qwen/Qwen3-8B", ("RTX 4090", 1, 1), memory_utilization=0.97)
    assert "outside the memory utilization" in narrow.explanation
    assert "does not compute in FP8" in ask("Qwen/Qwen3-8B-FP8", ("A100-80", 1, 1)).explanation
    assert "whole cache on every GPU" in ask("deepseek-ai/DeepSeek-V3", ("H200", 8, 1)).explanation


def test_one_node_stays_one_node() -> None:
    answer = ask(LLAMA_405B, ("H100", 8, 2), nodes=1)
    assert answer.verdict is Verdict.REFUSED
    assert "nodes" not in answer.nearest_fit
    assert codes(ask(LLAMA_405B, ("H100", 8, 2), nodes=1, gpus=16)) == {"NotEnoughGPUsPerNode"}


def test_two_nodes_are_whole_nodes() -> None:
    answer = ask("Qwen/Qwen3-8B", ("H100", 4, 2), nodes=2)
    assert (answer.gpus, answer.tensor, answer.pipeline, answer.nodes) == (8, 4, 2, 2)


def test_the_length_of_a_model_that_only_has_a_size_is_left_to_vllm() -> None:
    """It is the model's own limit, or less, and nobody has read that."""
    unknown = ParameterCount("bucket/Llama-2-7b-chat", 7)
    left = ask(unknown, ("A100-80", 8, 1))
    assert (left.verdict, left.max_length) == (Verdict.ESTIMATED, None)
    assert left.kv_tokens
    assert ask(unknown, ("A100-80", 8, 1), max_length=4096).max_length == 4096
