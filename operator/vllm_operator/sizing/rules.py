"""What vLLM refuses before it allocates anything, with its own words.

Every rule names the file under vllm/ that has it. Rules that changed between versions look at `EngineTerms`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import gcd

from vllm_operator.sizing.facts import ModelFacts, head_linear, padded_vocabulary
from vllm_operator.sizing.gpus import GPU
from vllm_operator.sizing.layers import Experts, Layer, Linear, Shard
from vllm_operator.sizing.memory import Estimate, Settings
from vllm_operator.sizing.quantization import Format, Scheme
from vllm_operator.sizing.types import Reason, ReasonKind
from vllm_operator.sizing.weights import GIB, Shape

MARLIN_OUTPUTS = 64
MARLIN_INPUTS = 128
SMALLEST_FP8_BLOCK = 32


MINIMUM_CAPABILITY: dict[Scheme, tuple[int, str]] = {
    Scheme.GPTQ: (60, "GPTQ"),
    Scheme.AWQ: (75, "AWQ"),
    Scheme.FP8_TENSOR: (75, "FP8"),
    Scheme.FP8_BLOCK: (75, "FP8"),
    Scheme.FP8_CHANNEL: (75, "FP8"),
    Scheme.INT8_CHANNEL: (75, "INT8"),
    Scheme.WNA16: (75, "compressed-tensors WNA16"),
    Scheme.NVFP4: (75, "NVFP4"),
    Scheme.MXFP4: (80, "MXFP4"),
    Scheme.MXFP8: (75, "MXFP8"),
    Scheme.NF4: (70, "bitsandbytes"),
}
"""Lowest compute capability (quantization/*.py get_min_capability)."""

ONLINE_CARDS: dict[str, tuple[int, int, str]] = {
    "fp8_per_channel": (89, 999, "8.9 or later: older cards have no kernel that quantises activations by token"),
    "nvfp4_per_token": (100, 109, "10.x: there is no kernel for others"),
}
"""Formats made while loading that ask more of a card: lowest and highest compute capability, and in words.

Source: layers/quantization/online/fp8.py Fp8PtpcOnlineLinearMethod, online/nvfp4.py Nvfp4OnlineMoEMethod.
"""


def _validity(code: str, message: str) -> Reason:
    return Reason(code, message, ReasonKind.VALIDITY)


def input_reasons(facts: ModelFacts, settings: Settings, max_length: int | None) -> list[Reason]:
    """What is wrong with the request whatever the shape and the card."""
    load, found = settings.load, []
    if facts.problem:
        code = "UnsupportedQuantization" if "quantization method" in facts.problem else "ConfigUnreadable"
        found.append(Reason(code, f"{facts.name} cannot be sized: {facts.problem}.", ReasonKind.INPUT))
    if load.batched_tokens < load.sequences:
        said = (
            f"max_num_batched_tokens ({load.batched_tokens}) must be greater than or equal to "
            f"max_num_seqs ({load.sequences})."
        )
        found.append(Reason("BatchTooSmall", said, ReasonKind.INPUT))
    if max_length is not None and facts.max_length and max_length > facts.max_length:
        said = (
            f"User-specified max_model_len ({max_length}) is greater than the derived max_model_len "
            f"({facts.max_length}) of {facts.name}.{_way_to_yarn(facts, max_length)}"
        )
        found.append(Reason("LengthBeyondModel", said, ReasonKind.INPUT))
    if not 0 < settings.utilization <= 1:
        said = f"memory utilization is {settings.utilization:g}: above 0 and at most 1 was expected."
        found.append(Reason("UtilizationOutOfRange", said, ReasonKind.INPUT))
    return found


def _way_to_yarn(facts: ModelFacts, max_length: int) -> str:
    """How a YaRN config, whose limit was not raised with its factor, gets the length (config/model.py from 0.30 on)."""
    if max_length > facts.yarn_length:
        return ""
    overrides = json.dumps({"max_position_embeddings": facts.yarn_length})
    return (
        " vLLM takes max_position_embeddings of a YaRN config as scaled already: add --hf-overrides "
        f"'{overrides}' to engine.extraArgs."
    )


def card_reasons(facts: ModelFacts, gpu: GPU, dtype: str) -> list[Reason]:
    """What the card cannot compute.

    Source: platforms/cuda.py check_if_supports_dtype, quantization/*.py get_min_capability.
    """
    found = list(_dtype_reasons(facts, gpu, dtype))
    capability = gpu.capability
    if capability is None:
        return found
    for scheme in sorted(facts.schemes):
        minimum, name = MINIMUM_CAPABILITY.get(scheme, (0, ""))
        if capability < minimum:
            said = f"{name} needs compute capability {minimum / 10:.1f}; {gpu.name} has {gpu.compute_capability}."
            found.append(_validity("UnsupportedQuantization", said))
    found += _online_reasons(facts, gpu, capability)
    return found or _unpacked(facts, gpu, capability)


def _online_reasons(facts: ModelFacts, gpu: GPU, capability: int) -> Iterator[Reason]:
    """What a format that is made while loading asks of the card, beyond what a checkpoint in that format does."""
    lowest, highest, words = ONLINE_CARDS.get(facts.quantization or "", (0, 999, ""))
    if not lowest <= capability <= highest:
        said = (
            f"quantization {facts.quantization} needs compute capability {words}; {gpu.name} has "
            f"{gpu.compute_capability}."
        )
        yield _validity("UnsupportedQuantization", said)


_FP8 = frozenset({Scheme.FP8_TENSOR, Scheme.FP8_BLOCK, Scheme.FP8_CHANNEL, Scheme.MXFP8})
LEAST_FOR_UNPACKING = 80
"""Compute capability from which Marlin kernels unpack FP8 with asynchronous copies, at about the speed of 16 bit."""


def _unpacked(facts: ModelFacts, gpu: GPU, capability: int) -> list[Reason]:
    """FP8 where it saves memory only: vLLM starts and unpacks every weight at every step."""
    if capability >= LEAST_FOR_UNPACKING or not facts.schemes & _FP8:
        return []
    said = (
        f"{gpu.name} (compute capability {gpu.compute_capability}) has no FP8 arithmetic: vLLM would start, and unpack "
        "every weight to float16 at every step. Use an AWQ or GPTQ checkpoint, or a GPU of compute capability 8.9."
    )
    return [Reason("UnsupportedQuantization", said, ReasonKind.ADVICE)]


def _dtype_reasons(facts: ModelFacts, gpu: GPU, dtype: str) -> Iterator[Reason]:
    """With dtype auto vLLM falls back to float16 where there is no bfloat16 (config/model.py _resolve_auto_dtype)."""
    half = dtype in {"half", "float16"} or (dtype == "auto" and not gpu.bf16)
    if dtype == "bfloat16" and not gpu.bf16:
        said = (
            f"Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your {gpu.name} "
            f"GPU has compute "
            f"capability {gpu.compute_capability}. You can use float16 instead by explicitly setting --dtype=half."
        )
        yield _validity("UnsupportedDtype", said)
    elif half and not facts.half_precision:
        said = f"{facts.architecture} does not support float16 (numerical instability), and {gpu.name} has no bfloat16."
        if gpu.bf16:
            said = f"{facts.architecture} does not support float16 (numerical instability). Use dtype bfloat16."
        yield _validity("UnsupportedDtype", said)


def headroom_reasons(gpu: GPU, shape: Shape, utilization: float) -> list[Reason]:
    """The CUDA context and NCCL must fit beside what utilisation grants (v1/worker/utils.py request_memory)."""
    reserve = gpu.memory_gib * (1 - utilization)
    least = 0.5 if shape.gpus == 1 else 0.7
    if reserve >= least:
        return []
    said = (
        f"Utilization {utilization:g} leaves {reserve:.2f} GiB of {gpu.name}'s {gpu.memory_gib:.2f} GiB, "
        f"the CUDA context needs "
        f"{least} GiB: vLLM would say that free memory on startup is less than desired GPU memory utilization."
    )
    return [Reason("HeadroomTooSmall", said, ReasonKind.MEMORY)]


def shape_reasons(facts: ModelFacts, shape: Shape, settings: Settings) -> list[Reason]:
    """Why the model cannot be split like that; empty when it can."""
    tp = shape.tensor
    if shape.pipeline > 1 and not facts.pipeline:
        said = (
            "Pipeline parallelism is not supported for this model. Supported models implement the "
            "`SupportsPP` interface."
        )
        return [_validity("PipelineUnsupported", said)]
    if shape.pipeline > len(facts.layers):
        said = f"Pipeline parallel size {shape.pipeline} is more than the {len(facts.layers)} layers of {facts.name}."
        return [_validity("PipelineUnsupported", said)]
    if shape.expert and not facts.is_moe:
        said = "Number of experts in the model must be greater than 0 when expert parallelism is enabled."
        return [_validity("ExpertParallelUnsupported", said)]
    if tp == 1:
        return []
    found = list(_head_reasons(facts, tp))
    for layer in {id(layer): layer for layer in facts.layers}.values():
        found += _layer_reasons(layer, shape, settings)
    return list(dict.fromkeys(found))


def _head_reasons(facts: ModelFacts, tp: int) -> Iterator[Reason]:
    if facts.heads % tp:
        said = f"Total number of attention heads ({facts.heads}) must be divisible by tensor parallel size ({tp})."
        yield _validity("HeadsNotDivisible", said)
    if padded_vocabulary(facts) % tp:
        yield _validity(
            "VocabNotDivisible", f"{padded_vocabulary(facts)} is not divisible by {tp} (padded vocabulary)."
        )
    elif not facts.tied:
        yield from _format_reasons(head_linear(facts), tp)


def _layer_reasons(layer: Layer, shape: Shape, settings: Settings) -> Iterator[Reason]:
    tp = shape.tensor
    for linear in layer.linears:
        found = list(_linear_reasons(linear, tp))
        yield from found or _format_reasons(linear, tp)
    if layer.experts:
        yield from _expert_reasons(layer.experts, shape, settings)


def _linear_reasons(linear: Linear, tp: int) -> Iterator[Reason]:
    """Sizes that must divide (distributed/utils.py divide, layers/linear.py QKVParallelLinear)."""
    for output in linear.outputs if linear.shard is Shard.COLUMN else ():
        if output.heads:
            if output.heads % tp and tp % output.heads:
                said = (
                    f"{output.heads} KV heads cannot be split over {tp} GPUs nor repeated evenly: vLLM "
                    f"stops with a bare "
                    "AssertionError."
                )
                yield _validity("KVHeadsNotDivisible", said)
        elif output.size % tp:
            yield _validity("IntermediateNotDivisible", f"{output.size} is not divisible by {tp} ({linear.name}).")
    if linear.shard is Shard.ROW and linear.inputs % tp:
        yield _validity("IntermediateNotDivisible", f"{linear.inputs} is not divisible by {tp} ({linear.name}).")


def _format_reasons(linear: Linear, tp: int) -> Iterator[Reason]:
    """Shards that a quantised format cannot hold."""
    fmt, inputs = linear.format, linear.inputs_per_rank(tp)
    outputs = linear.outputs_per_rank(tp)
    if fmt.scheme is Scheme.FP8_BLOCK and linear.shard is not Shard.REPLICATED:
        if linear.shard is Shard.ROW and inputs % fmt.block:
            said = (
                f"Weight input_size_per_partition = {inputs} is not divisible by weight quantization "
                f"block_k = {fmt.block}."
            )
            yield _validity("QuantGroupMisaligned", f"{said} ({linear.name}, tensor parallel size {tp})")
        bad = next((size for size in outputs if linear.shard is Shard.COLUMN and size % fmt.block), None)
        if bad is not None:
            said = (
                f"Weight output_partition_size = {bad} is not divisible by weight quantization block_n = {fmt.block}."
            )
            yield _validity("QuantGroupMisaligned", f"{said} ({linear.name}, tensor parallel size {tp})")
    if fmt.scheme in {Scheme.MXFP4, Scheme.MXFP8} and inputs % fmt.group:
        said = (
            f"{fmt.scheme.upper()} requires input_size_per_partition ({inputs}) to be divisible by {fmt.group}. "
            f"({linear.name}, tensor parallel size {tp})"
        )
        yield _validity("QuantGroupMisaligned", said)
    if fmt.scheme in {Scheme.AWQ, Scheme.GPTQ, Scheme.WNA16}:
        yield from _grouped_reasons(linear, fmt, inputs, sum(outputs), tp)


def _grouped_reasons(linear: Linear, fmt: Format, inputs: int, outputs: int, tp: int) -> Iterator[Reason]:
    """Groups of inputs and Marlin's tiles.

    Source: auto_awq.py, quantization/utils/marlin_utils.py verify_marlin_supports_shape.
    """
    where = f"{linear.name}, {inputs} inputs and {outputs} outputs on each of {tp} GPUs"
    if fmt.group and inputs % fmt.group:
        said = (
            f"The input size is not aligned with the quantized weight shape (group size {fmt.group}). "
            f"This can be caused by too "
            f"large tensor parallel size. ({where})"
        )
        yield _validity("QuantGroupMisaligned", said)
    elif outputs % MARLIN_OUTPUTS:
        said = (
            f"Weight output_size_per_partition = {outputs} is not divisible by min_thread_n = "
            f"{MARLIN_OUTPUTS}. ({where})"
        )
        yield _validity("QuantGroupMisaligned", said)
    elif inputs % MARLIN_INPUTS:
        said = (
            f"Weight input_size_per_partition = {inputs} is not divisible by min_thread_k = {MARLIN_INPUTS}. ({where})"
        )
        yield _validity("QuantGroupMisaligned", said)


def _expert_reasons(experts: Experts, shape: Shape, settings: Settings) -> Iterator[Reason]:
    """Experts' sizes (fused_moe/layer.py, fused_moe/oracle/fp8.py)."""
    tp = shape.tensor
    if tp > experts.count:
        yield _validity(
            "IntermediateNotDivisible",
            f"Tensor parallel size {tp} is greater than the number of experts {experts.count}.",
        )
    if shape.expert:
        return
    if experts.intermediate % tp:
        said = (
            f"Experts of {experts.intermediate} cannot be split over {tp} GPUs: vLLM stops with a bare AssertionError."
        )
        yield _validity("IntermediateNotDivisible", said)
        return
    share, block = experts.intermediate // tp, experts.format.block
    if experts.format.scheme is Scheme.MXFP8 and share % experts.format.group:
        said = f"Online MXFP8 MoE requires hidden/intermediate sizes divisible by {experts.format.group}."
        yield _validity("QuantGroupMisaligned", f"{said} ({share}, tensor parallel size {tp})")
    if experts.format.scheme is not Scheme.FP8_BLOCK or not share % block:
        return
    if settings.terms.refines_fp8_experts and gcd(share, block) >= SMALLEST_FP8_BLOCK:
        return
    said = (
        f"The output_size of gate's and up's weight = {share} is not divisible by weight quantization "
        f"block_n = {block}. "
        f"(tensor parallel size {tp}; expert parallelism keeps experts whole)"
    )
    yield _validity("QuantGroupMisaligned", said)


def memory_reason(facts: ModelFacts, estimate: Estimate, floor: int, *, exact: bool) -> Reason:
    """Why a valid shape does not hold the model; `exact` when the length was asked for, not chosen."""
    stage = min(estimate.stages, key=lambda one: one.available.low - one.pool.needed(floor))
    name, low = estimate.gpu.name, stage.available.low / GIB
    weights, requested = stage.weights.high / GIB, stage.requested / GIB
    loaded = f"{weights:.2f} GiB" + (f" ({stage.draft / GIB:.2f} of it the draft model's)" if stage.draft else "")
    on_gpu = f"on each of {estimate.shape.gpus} x {name}" if estimate.shape.gpus > 1 else f"on {name}"
    if weights >= requested:
        said = f"Weights take {loaded} {on_gpu}, which grants {requested:.2f} of its {estimate.gpu.memory_gib:.2f} GiB."
        return Reason("WeightsExceedMemory", said, ReasonKind.MEMORY)
    if low <= 0:
        said = (
            f"No available memory for the cache blocks: weights {loaded}, activations, graphs and the rest "
            f"{stage.used.high / GIB - weights:.2f} GiB of {requested:.2f} GiB {on_gpu}."
        )
        return Reason("KVCacheTooSmall", said, ReasonKind.MEMORY)
    if stage.pool.needed(floor) <= stage.available.low:
        blocks, asked = stage.pool.blocks(stage.available.low), estimate.sequences
        said = (
            f"max_num_seqs ({asked}) exceeds available Mamba cache blocks ({blocks}) {on_gpu}. Each "
            f"decode sequence requires one "
            "Mamba cache block."
        )
        return Reason("StateCacheTooSmall", said, ReasonKind.MEMORY)
    needed, fits = stage.pool.needed(floor) / GIB, estimate.longest(max(facts.max_length, floor))
    asked_for = "the model's max seq len" if exact else "the shortest useful length"
    said = (
        f"To serve at least one request with {asked_for} ({floor:,}), {needed:.2f} GiB KV cache is "
        f"needed, which is larger than the "
        f"available KV cache memory ({low:.2f} GiB) {on_gpu}. The longest length that fits is {fits:,}."
    )
    return Reason("KVCacheTooSmall", said, ReasonKind.MEMORY)
