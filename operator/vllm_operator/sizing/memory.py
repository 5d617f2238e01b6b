"""The master equation: what is left for the KV cache on every GPU of a shape.

requested = ceil(total memory * utilisation); what weights, engine state, activations and CUDA graphs leave of
it holds the KV cache
(vllm/v1/worker/gpu_worker.py determine_available_memory, v1/worker/utils.py request_memory).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.gpus import GPU
from vllm_operator.sizing.kv import BLOCK, ELEMENT_BYTES, LATENT_BLOCK, CacheRequest, Pool, pool
from vllm_operator.sizing.layers import Cache, LatentCache
from vllm_operator.sizing.quantization import Scheme
from vllm_operator.sizing.terms import (
    Bytes,
    Load,
    graphs,
    lora_bytes,
    newer_runner,
    non_torch,
    sampler_bytes,
    transient,
)
from vllm_operator.sizing.versions import EngineTerms
from vllm_operator.sizing.vision import SPREAD
from vllm_operator.sizing.weights import GIB, Padding, Shape, StageWeights, layer_bytes, padding_for, stages, weights

ENCODER_PROFILE = 1.5 * GIB
"""Most that encoding the largest images was seen to add to the profile run (llava 1.6: 1.97 GiB with all the rest)."""

UNKNOWN_WEIGHTS = 1.03
"""Conservative factor on the weights of an architecture without a row."""


MXFP4_REPACKED = {8: 1.01, 9: 1.02, 10: 1.05, 12: 1.15}
"""Most that loaded MXFP4 weights were above the padded tensors, by major compute capability.

Measured on Hopper: 1.008 and 1.013 (Triton's layout of scales); published for 8.0: 1.001, for 12.0: 1.15, unexplained.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked of the engine besides the shape."""

    load: Load
    terms: EngineTerms
    utilization: float
    kv_cache_dtype: str = "auto"
    vision: bool = True
    kv_cache_bytes: int | None = None  # given, not what is left
    prefix_caching: bool | None = None

    @property
    def states(self) -> int:
        """State blocks of one sequence: one, two where prefixes are cached.

        Source: MambaSpec, mode align), one a drafted token.
        """
        cached = self.terms.caches_hybrid_prefixes if self.prefix_caching is None else self.prefix_caching
        return (2 if cached else 1) + self.load.speculative_tokens


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One GPU of one pipeline stage, bytes."""

    requested: float
    weights: Bytes
    sampler: Bytes
    non_torch: Bytes
    transient: Bytes
    graphs: Bytes
    pool: Pool
    total: float = 0.0
    draft: float = 0.0  # of the weights: those of a draft model
    given: int | None = None  # KV cache that was asked for in bytes

    @property
    def other(self) -> Bytes:
        """Sampler state and what lies outside torch's allocator."""
        return self.sampler.plus(self.non_torch)

    @property
    def used(self) -> Bytes:
        """Everything but the KV cache."""
        return self.weights.plus(self.other).plus(self.transient).plus(self.graphs)

    @property
    def available(self) -> Bytes:
        """What is left for the KV cache: conservative and optimistic; what was asked for where that is known to fit."""
        if self.given is not None:
            return self._given(float(self.given))
        return Bytes(self.requested - self.used.high, self.requested - self.used.low)

    def _given(self, given: float) -> Bytes:
        """The bytes are taken as they are; what does not fit into the card's memory beside the rest is not there."""
        return Bytes(
            given if given + self.used.high <= self.total else self.total - self.used.high,
            given if given + self.used.low <= self.total else self.total - self.used.low,
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A shape on a GPU: every stage, worst stage decides."""

    gpu: GPU
    shape: Shape
    stages: tuple[StageEstimate, ...]
    sequences: int = 0  # sequences that need a state block each; 0 where that is not checked

    @property
    def worst(self) -> StageEstimate:
        """The stage that holds the fewest blocks."""
        return min(self.stages, key=lambda stage: stage.available.low / max(1, stage.pool.block_bytes))

    def longest(self, limit: int, *, optimistic: bool = False) -> int:
        """The longest request that every stage holds, at most `limit`."""
        lengths = [
            stage.pool.longest(stage.available.high if optimistic else stage.available.low, limit)
            for stage in self.stages
        ]
        return min(lengths, default=0)

    def holds(self, length: int, *, optimistic: bool = False) -> bool:
        """Whether every stage holds one request of `length` tokens, and one state a sequence where there are states."""
        return all(self._stage_holds(stage, length, optimistic=optimistic) for stage in self.stages)

    def _stage_holds(self, stage: StageEstimate, length: int, *, optimistic: bool) -> bool:
        available = stage.available.high if optimistic else stage.available.low
        if available <= 0 or stage.pool.needed(length) > available:
            return False
        if not (self.sequences and stage.pool.has_states):
            return True
        return stage.pool.blocks(stage.available.low) >= self.sequences  # fewer sequences are a cheap way out


def weights_factor(facts: ModelFacts, capability: int | None) -> float:
    """How much more than the arithmetic the weights may take: MXFP4 is repacked, unknown models may differ."""
    if not facts.known:
        return UNKNOWN_WEIGHTS
    if Scheme.MXFP4 not in facts.schemes:
        return 1.0
    return MXFP4_REPACKED.get((capability or 0) // 10, 1.07)


def drafted(draft: ModelFacts, shape: Shape) -> Shape:
    """How a draft model is split beside a model (config/speculative.py create_draft_parallel_config)."""
    return Shape(shape.tensor, 1, expert=shape.expert and draft.is_moe)


def uneven_bytes(facts: ModelFacts, shape: Shape) -> float:
    """What a rank may hold above its even share, where only the sum of the tensors is known: an embedding."""
    return 2.0 * facts.vocabulary * facts.hidden / shape.tensor if facts.total_bytes else 0.0


def element_bytes(facts: ModelFacts, kv_cache_dtype: str) -> float:
    """Bytes of one element of the KV cache."""
    dtype = kv_cache_dtype if kv_cache_dtype != "auto" else facts.kv_cache_dtype
    if dtype == "auto":
        return facts.dense_bits / 8
    return ELEMENT_BYTES.get(dtype, 1.0 if dtype.startswith("fp8") else 2.0)


@dataclass(slots=True)
class Estimator:
    """Estimates shapes of one model under one set of settings; what does not depend on the card is kept."""

    facts: ModelFacts
    settings: Settings
    draft: ModelFacts | None  # a draft model that is loaded beside, as far as it is known
    _weights: dict[tuple[Shape, object], tuple[StageWeights, ...]]
    _drafts: dict[tuple[Shape, object], float]
    _pools: dict[tuple[int, int], tuple[Pool, ...]]
    _terms: dict[tuple[Shape, int], tuple[Bytes, Bytes]]

    @classmethod
    def of(cls, facts: ModelFacts, settings: Settings, draft: ModelFacts | None = None) -> Estimator:
        """An estimator with nothing kept yet."""
        return cls(facts, settings, draft, {}, {}, {}, {})

    def estimate(self, gpu: GPU, shape: Shape) -> Estimate:
        """Every stage of the shape on that card."""
        loaded = self._stage_weights(gpu, shape)
        pools = self._stage_pools(shape)
        stages = tuple(
            self._stage(gpu, shape, index, part, cache)
            for index, (part, cache) in enumerate(zip(loaded, pools, strict=True))
        )
        load = self.settings.load
        return Estimate(gpu, shape, stages, 0 if load.enforce_eager else load.sequences)

    def _stage(self, gpu: GPU, shape: Shape, index: int, part: StageWeights, cache: Pool) -> StageEstimate:
        facts, load, terms = self.facts, self.settings.load, self.settings.terms
        total = gpu.memory_gib * GIB
        last = index == shape.pipeline - 1
        charged = terms.charges_sampler and newer_runner(facts, load, terms)
        sampler = float(sampler_bytes(facts, load)) if last and charged else 0.0
        if index:
            sampler += (
                2.0 * load.batched_tokens * facts.hidden * 2
            )  # intermediate tensors received from the stage before
        activations, captured = self._stage_terms(shape)
        held = float(part.total + lora_bytes(facts, load, shape.tensor) // shape.pipeline)
        factor = weights_factor(facts, gpu.capability)
        drafting = self._draft(gpu, shape) if last else Bytes(0.0, 0.0)
        return StageEstimate(
            math.ceil(total * self.settings.utilization),
            Bytes(held, held * factor + self._spread(shape)).plus(drafting),
            Bytes(sampler, sampler),
            non_torch(shape),
            activations,
            captured,
            cache,
            total,
            drafting.low,
            self.settings.kv_cache_bytes,
        )

    def _spread(self, shape: Shape) -> float:
        """What weights may take on top: of encoders, and of tensors whose place is not known."""
        facts = self.facts
        encoder = (facts.vision_bytes + facts.vision_sharded_bytes / shape.tensor) if self.settings.vision else 0.0
        return encoder * (SPREAD - 1) + uneven_bytes(facts, shape) + self._drafting_head(shape)

    def _draft(self, gpu: GPU, shape: Shape) -> Bytes:
        """The draft model on one GPU of the last stage; nothing where none is known."""
        if self.draft is None:
            return Bytes(0.0, 0.0)
        alone, padding = drafted(self.draft, shape), padding_for(gpu.capability)
        key = (alone, padding)
        if key not in self._drafts:
            self._drafts[key] = float(weights(self.draft, alone, padding)[0].total)
        held = self._drafts[key]
        return Bytes(held, held * weights_factor(self.draft, gpu.capability) + uneven_bytes(self.draft, alone))

    def _drafting_head(self, shape: Shape) -> float:
        """At most a head as large as the largest layer, with an embedding and an output layer."""
        if self.draft is not None or not self.settings.load.drafts:
            return 0.0
        largest = max((layer_bytes(layer, shape, Padding()) for layer in self.facts.layers), default=0)
        return largest + 4.0 * self.facts.vocabulary * self.facts.hidden / shape.tensor

    def _stage_terms(self, shape: Shape) -> tuple[Bytes, Bytes]:
        key = (shape, 0)
        if key not in self._terms:
            load, terms = self.settings.load, self.settings.terms
            activations = transient(self.facts, load, shape, terms)
            if self.draft is not None:
                activations = activations.most(transient(self.draft, load, shape, terms))
            if self.settings.vision:
                activations = activations.plus(Bytes(0.0, ENCODER_PROFILE))
            self._terms[key] = (activations, graphs(self.facts, load, terms))
        return self._terms[key]

    def _stage_weights(self, gpu: GPU, shape: Shape) -> tuple[StageWeights, ...]:
        padding = padding_for(gpu.capability)
        key = (shape, padding)
        if key not in self._weights:
            self._weights[key] = weights(self.facts, shape, padding, vision=self.settings.vision)
        return self._weights[key]

    def _stage_pools(self, shape: Shape) -> tuple[Pool, ...]:
        key = (shape.tensor, shape.pipeline)
        if key not in self._pools:
            self._pools[key] = pools(self.facts, shape, self.settings, self.draft)
        return self._pools[key]


def pools(facts: ModelFacts, shape: Shape, settings: Settings, draft: ModelFacts | None = None) -> tuple[Pool, ...]:
    """The block pool of one GPU of every stage; layers of a draft model come last, all of them on the last stage."""
    layers = (*facts.layers, *(draft.layers if draft else ()))
    *first, last = stages(len(facts.layers), shape.pipeline)
    caches: list[tuple[int, Cache]] = [(index, layer.cache) for index, layer in enumerate(layers) if layer.cache]
    # The size of a block is one setting for all layers (config/cache.py block_size).
    latent = any(isinstance(cache, LatentCache) for _, cache in caches)
    request = CacheRequest(
        shape.tensor,
        element_bytes(facts, settings.kv_cache_dtype),
        speculative_tokens=settings.load.speculative_tokens,
        block=LATENT_BLOCK if latent else BLOCK,
    )
    tokens = settings.load.batched_tokens
    in_flight = (shape.pipeline + 1) * tokens if settings.terms.keeps_in_flight else tokens
    return tuple(
        pool(caches, members, request, in_flight, settings.states)
        for members in (*first, range(last.start, len(layers)))
    )
