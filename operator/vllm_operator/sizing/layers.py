"""The tensors of one transformer layer, as vLLM splits them over tensor-parallel ranks.

Everything that sizing says about weights and about divisibility is derived from these descriptions:
one place per architecture says what a layer is made of, and bytes, rules and activations follow from it.
Source of the sharding rules: vllm/model_executor/layers/linear.py (ColumnParallelLinear, RowParallelLinear,
QKVParallelLinear) and vllm/model_executor/layers/fused_moe/layer.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vllm_operator.sizing.quantization import Format


class Shard(StrEnum):
    """How a matrix is cut over the ranks of a tensor-parallel group."""

    COLUMN = "column"  # outputs are divided
    ROW = "row"  # inputs are divided
    REPLICATED = "replicated"  # every rank has all of it


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a merged projection.

    `heads` is set for key and value projections: they are cut by heads, and a head is repeated when there are
    more ranks than heads (QKVParallelLinear).
    """

    size: int
    heads: int = 0

    def per_rank(self, tp: int) -> int:
        """Columns of this output on one rank."""
        if not self.heads:
            return self.size // tp
        return self.size // self.heads * max(1, self.heads // tp)


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix `inputs` x sum of `outputs`, its format, and how it is cut."""

    name: str
    inputs: int
    outputs: tuple[Output, ...]
    shard: Shard
    format: Format
    bias: bool = False

    @property
    def width(self) -> int:
        """Number of outputs, all merged projections together."""
        return sum(output.size for output in self.outputs)

    def outputs_per_rank(self, tp: int) -> tuple[int, ...]:
        """Columns of every merged projection on one rank."""
        if self.shard is not Shard.COLUMN:
            return tuple(output.size for output in self.outputs)
        return tuple(output.per_rank(tp) for output in self.outputs)

    def inputs_per_rank(self, tp: int) -> int:
        """Rows on one rank."""
        return self.inputs // tp if self.shard is Shard.ROW else self.inputs


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed experts of one layer; shared experts are plain `Linear`s of the layer."""

    count: int
    top_k: int
    hidden: int
    intermediate: int
    format: Format
    gated: bool = True
    bias: bool = False

    @property
    def up_width(self) -> int:
        """Rows of one expert's first matrix: gate and up together, or up alone."""
        return self.intermediate * (2 if self.gated else 1)


@dataclass(frozen=True, slots=True)
class AttentionCache:
    """Keys and values of one attention layer. `window`: sliding window, `chunk`: chunked local attention, tokens."""

    kv_heads: int
    key_size: int
    value_size: int
    window: int = 0
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class LatentCache:
    """The compressed cache of multi-head latent attention: `width` elements a token, on every rank."""

    width: int
    index_bytes: int = 0  # a token in the index of sparse attention, kept beside


@dataclass(frozen=True, slots=True)
class StateCache:
    """The fixed-size state of a Mamba-like layer: elements of the convolution and of the recurrent state.

    Both are divided by the tensor-parallel size.
    """

    conv_elements: int
    conv_bytes: int
    state_elements: int
    state_bytes: int
    kernel: int = 0  # width of the convolution
    kind: str = "mamba2"


Cache = AttentionCache | LatentCache | StateCache


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: matrices, experts, small tensors and the cache it keeps."""

    linears: tuple[Linear, ...] = ()
    experts: Experts | None = None
    cache: Cache | None = None
    replicated_bytes: int = 0  # norms, routers' bias and the like: the same on every rank
    sharded_bytes: int = 0  # small tensors divided by the tensor-parallel size
    absorbed_bytes: int = 0  # made after loading, divided by the tensor-parallel size (MLA)

    def linear(self, name: str) -> Linear | None:
        """The matrix of that name, or None."""
        return next((linear for linear in self.linears if linear.name == name), None)
