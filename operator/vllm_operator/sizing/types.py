"""What goes into sizing and what comes out: the seam between the memory model and everything that uses it.

Memory is in GiB (2**30 bytes) unless a name says otherwise; lengths are in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.gpus import GPU


class Verdict(StrEnum):
    """How sure the answer is."""

    FITS = "Fits"  # holds on the conservative bound
    TIGHT = "Tight"  # holds on the optimistic bound only
    ESTIMATED = "Estimated"  # from the requirement table: the architecture is not known, or the draft model
    REFUSED = "Refused"
    SKIPPED = "Skipped"  # no GPU asked for, or sizing is off


class ReasonKind(StrEnum):
    """What a reason is about; `sizing.mode: Advisory` overrides `MEMORY` and `ADVICE`."""

    INPUT = "Input"  # the request contradicts itself, the model or the card
    VALIDITY = "Validity"  # vLLM would refuse the shape (divisibility, dtype, quantisation)
    MEMORY = "Memory"  # it would not fit
    ADVICE = "Advice"  # it would start, but not do what was asked for
    INVENTORY = "Inventory"  # the cluster has no such GPU, or not enough on a node


@dataclass(frozen=True, slots=True)
class Reason:
    """One stable code, one sentence with the numbers."""

    code: str
    message: str
    kind: ReasonKind


@dataclass(frozen=True, slots=True)
class Offer:
    """GPUs of one product that a cluster (or a user, by hand) offers: `nodes` nodes with `gpus_per_node` each."""

    gpu: GPU
    gpus_per_node: int
    nodes: int


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """A model nobody can look at: only its number of parameters (in billions) and bytes per parameter are known."""

    name: str
    billions: float
    bytes_per_parameter: float = 2.0


@dataclass(frozen=True, slots=True)
class SizingRequest:
    """One model on some GPUs. `None` means "choose"; every other value is taken as given and checked.

    `max_length` "auto" asks for the longest length that fits, up to the model's own limit.
    """

    model: ModelFacts | ParameterCount
    offers: tuple[Offer, ...]
    gpus: int | None = None
    tensor: int | None = None
    pipeline: int | None = None
    nodes: int | None = None
    expert: bool = False
    max_length: int | Literal["auto"] = "auto"
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    memory_utilization: float = 0.9
    kv_cache_dtype: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    enforce_eager: bool = False
    lora_adapters: int = 0
    lora_rank: int = 16
    speculative_method: str | None = None
    speculative_tokens: int = 0
    draft: ModelFacts | ParameterCount | None = None  # that the method draft_model loads; None: nothing is known of it
    language_model_only: bool = False
    engine_version: str = "0.32"
    prefix_caching: bool | None = None  # None: as the engine's version does by itself
    kv_cache_bytes: int | None = None  # KV cache a GPU as vLLM's --kv-cache-memory-bytes sets it: nothing is profiled
    overridden: bool = False  # --hf-overrides may change what config.json says


@dataclass(frozen=True, slots=True)
class Band:
    """A quantity with its conservative and optimistic bound (`low <= high`)."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PerGPU:
    """Where the memory of the fullest GPU goes, in GiB."""

    capacity: float
    weights: float
    activations: Band
    graphs: Band
    other: Band
    kv_cache: Band
    reserve: float  # outside `memory_utilization`
    draft: float = 0.0  # of the weights: those of a draft model


@dataclass(frozen=True, slots=True)
class Rejected:
    """A candidate that was looked at and why it was not taken."""

    candidate: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Sizing:
    """The answer. When `REFUSED`, shape fields hold the best near miss (or are unset), `reasons` say what is wrong."""

    verdict: Verdict
    explanation: str
    reasons: tuple[Reason, ...] = ()
    gpu: GPU | None = None
    gpus: int = 0
    tensor: int = 1
    pipeline: int = 1
    nodes: int = 1
    expert: bool = False
    max_length: int | None = None
    per_gpu: PerGPU | None = None
    kv_bytes_per_token: int | None = None  # per GPU
    kv_tokens: Band | None = None
    max_concurrency: float | None = None  # requests of `max_length` tokens at once, conservative
    nearest_fit: str = ""
    rejected: tuple[Rejected, ...] = field(default=())
