"""Measured starts of real vLLM, and what sizing says about each.

calibration.json: vLLM 0.25.1 with dummy weights on NVIDIA H200 and H100; `args` are the engine arguments, the
rest is what vLLM
reported. What the arguments leave out took vLLM's own default, which is in the point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vllm_operator.sizing.choose import assess, settings_of
from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.gpus import lookup
from vllm_operator.sizing.memory import Estimator, StageEstimate
from vllm_operator.sizing.online import as_requested
from vllm_operator.sizing.source import facts_at
from vllm_operator.sizing.types import Offer, Sizing, SizingRequest
from vllm_operator.sizing.weights import GIB, Shape, padding_for, weights

HERE = Path(__file__).parent
ENGINE = "0.25"

FAILURES: Mapping[str, frozenset[str]] = {
    "llama3.1-70b-tp1-FAILS": frozenset({"WeightsExceedMemory", "KVCacheTooSmall"}),
    "llama3.1-8b-tp3-FAILS": frozenset({"HeadsNotDivisible"}),
    "llama3.1-8b-util015-FAILS": frozenset({"KVCacheTooSmall"}),
    "llama3.1-8b-util0.995-FAIL": frozenset({"HeadroomTooSmall"}),
    "qwen2.5-72b-bf16-FAIL": frozenset({"WeightsExceedMemory"}),
    "qwen3.5-35b-a3b-text-L32k-NEAR": frozenset({"StateCacheTooSmall"}),
    "mixtral-8x7b-bf16-FAIL": frozenset({"WeightsExceedMemory"}),
}
"""Points that did not start, and the reasons that say why."""

FORCED = frozenset({"llama3.1-8b-v1runner"})
"""Started with the older model runner forced by an environment variable, which sizing does not know of."""


@dataclass(frozen=True, slots=True)
class Point:
    """One start and the prediction for it; GiB."""

    name: str
    measured: Mapping[str, Any]
    answer: Sizing
    weights: float
    stage: StageEstimate

    @property
    def started(self) -> bool:
        """Whether vLLM came up."""
        return bool(self.measured["rc"] == 0)

    @property
    def kv_bytes(self) -> float | None:
        """KV cache that vLLM reported, exactly where it was recorded exactly."""
        gib = self.measured.get("available_kv_gib_exact", self.measured.get("available_kv_gib"))
        return float(gib) * GIB if gib is not None else None

    @property
    def low(self) -> float:
        """Conservative KV cache, GiB."""
        return self.stage.available.low / GIB

    @property
    def high(self) -> float:
        """Optimistic KV cache, GiB."""
        return self.stage.available.high / GIB

    @property
    def error(self) -> float | None:
        """Middle of the band minus the measured KV cache, GiB."""
        return None if self.kv_bytes is None else (self.low + self.high) / 2 - self.kv_bytes / GIB


@cache
def model(config: str) -> ModelFacts:
    """Facts of a config under configs/."""
    return facts_at(HERE / "configs" / config)


def request_of(raw: Mapping[str, Any]) -> SizingRequest:
    """The request that asks what was started."""
    args = raw["args"]
    gpu = lookup(raw["product"])
    assert gpu is not None
    tensor = args.get("tensor_parallel_size", 1)
    facts = model(raw["config"])
    return SizingRequest(
        model=facts,
        offers=(Offer(gpu, 8, 1),),
        gpus=tensor,
        tensor=tensor,
        max_length=args.get("max_model_len", facts.max_length),
        max_sequences=args.get("max_num_seqs", raw.get("max_num_seqs", 1024)),
        max_batched_tokens=args.get("max_num_batched_tokens", raw.get("max_num_batched_tokens", 16384)),
        memory_utilization=args["gpu_memory_utilization"],
        kv_cache_dtype=args.get("kv_cache_dtype", "auto"),
        quantization=args.get("quantization"),
        enforce_eager=args.get("enforce_eager", False),
        lora_adapters=args.get("max_loras", 0),
        lora_rank=args.get("max_lora_rank", 16),
        language_model_only="limit_mm_per_prompt" in args,
        engine_version=ENGINE,
    )


def point(raw: Mapping[str, Any]) -> Point:
    """One point beside its prediction."""
    request = request_of(raw)
    facts = as_requested(model(raw["config"]), request)
    gpu, shape = request.offers[0].gpu, Shape(request.tensor or 1)
    settings = settings_of(request, facts)
    loaded = weights(facts, shape, padding_for(gpu.capability), vision=settings.vision)
    stage = Estimator.of(facts, settings).estimate(gpu, shape).worst
    return Point(raw["name"], raw, assess(request), max(part.total for part in loaded) / GIB, stage)


@cache
def points() -> tuple[Point, ...]:
    """All points."""
    return tuple(point(raw) for raw in json.loads((HERE / "calibration.json").read_text(encoding="utf-8")))


def allowed(one: Point) -> float:
    """The error that is allowed for the KV cache: the larger of 1 GiB and 3 % on one GPU, 1.5 GiB on several."""
    measured = (one.kv_bytes or 0.0) / GIB
    return max(1.0, 0.03 * measured) if one.measured["args"].get("tensor_parallel_size", 1) == 1 else 1.5
