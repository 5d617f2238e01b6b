"""What works, but not as well as it might: sentences for the end of an explanation."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.quantization import ONLINE_EXPERTS, Scheme
from vllm_operator.sizing.types import Sizing, SizingRequest

SLOW_WORLD = 2
"""Over more PCIe-only GPUs than this, vLLM's own all-reduce is off (device_communicators/custom_all_reduce.py)."""

NATIVE_FP8 = 89
FP8 = frozenset({Scheme.FP8_TENSOR, Scheme.FP8_CHANNEL, Scheme.FP8_BLOCK, Scheme.MXFP8})


def cautions(request: SizingRequest, facts: ModelFacts, answer: Sizing) -> Iterator[str]:
    """What to know about a shape that fits."""
    gpu, per = answer.gpu, answer.per_gpu
    if gpu is None or per is None:
        return
    if gpu.known and not gpu.nvlink and answer.tensor > SLOW_WORLD:
        yield f"Tensor parallelism over {answer.tensor} GPUs joined by PCIe only is slow: custom all-reduce is off."
    least = 0.9 if answer.gpus == 1 else 2.5 if answer.expert else 1.5
    if per.reserve < least:
        yield f"Only {per.reserve:.2f} GiB are left outside the memory utilization; CUDA and NCCL may need {least:g}."
    if gpu.capability is not None and gpu.capability < NATIVE_FP8 and facts.schemes & FP8:
        yield f"{gpu.name} does not compute in FP8: weights stay FP8, the arithmetic is 16 bit."
    if request.quantization in ONLINE_EXPERTS and not facts.is_moe:
        yield f"quantization {request.quantization} is for experts, and this model has none: no weight becomes smaller."
    if facts.max_length and (answer.max_length or 0) > facts.max_length:
        yield (
            f"config.json allows {facts.max_length:,} tokens: vLLM starts with {answer.max_length:,} only if "
            "--hf-overrides raises that."
        )
    if facts.is_latent and answer.tensor > 1:
        yield "Latent attention keeps its whole cache on every GPU: more tensor parallelism does not enlarge it."
