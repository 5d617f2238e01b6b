"""Bytes of weights on one GPU, for every pipeline stage.

Source: the classes of vllm/model_executor/models/, layers/linear.py, layers/vocab_parallel_embedding.py
(padding of the vocabulary to 64)
and distributed/utils.py get_pp_indices (how layers are dealt out to stages).
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_operator.sizing.facts import ModelFacts, head_linear, padded_vocabulary
from vllm_operator.sizing.layers import Experts, Layer, Linear
from vllm_operator.sizing.quantization import Scheme

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Shape:
    """How a model is split: tensor, pipeline, and whether experts are dealt out whole."""

    tensor: int = 1
    pipeline: int = 1
    expert: bool = False

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tensor * self.pipeline


@dataclass(frozen=True, slots=True)
class Padding:
    """Multiples that an MXFP4 kernel rounds the experts' sizes up to (fused_moe/oracle/mxfp4.py)."""

    intermediate: int = 1
    hidden: int = 1


MXFP4_PADDING: tuple[tuple[int, int, Padding], ...] = (
    (80, 89, Padding(128, 256)),  # Marlin
    (90, 99, Padding(64, 1)),  # Triton
    (100, 109, Padding(128, 256)),  # TRT-LLM
    (120, 129, Padding(128, 256)),  # Marlin
)
"""Compute capability from, to, and what the kernel that vLLM chooses there pads to."""


def padding_for(capability: int | None) -> Padding:
    """Padding of MXFP4 experts on a card of that compute capability."""
    for low, high, padding in MXFP4_PADDING:
        if capability is not None and low <= capability <= high:
            return padding
    return Padding(128, 256)


def linear_bytes(linear: Linear, tp: int) -> int:
    """Bytes of a matrix on one rank."""
    outputs = linear.outputs_per_rank(tp)
    rows, columns = sum(outputs), linear.inputs_per_rank(tp)
    bias = rows * 2 if linear.bias else 0
    return linear.format.matrix_bytes(rows, columns, len(outputs)) + bias


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def experts_bytes(experts: Experts, tp: int, *, expert: bool, padding: Padding) -> int:
    """Bytes of the routed experts of one layer on one rank."""
    count = -(-experts.count // tp) if expert else experts.count
    share = experts.intermediate if expert else experts.intermediate // tp
    hidden = experts.hidden
    if experts.format.scheme is Scheme.MXFP4:
        share, hidden = _up(share, padding.intermediate), _up(hidden, padding.hidden)
    merged = 2 if experts.gated else 1
    up = experts.format.matrix_bytes(share * merged, hidden, merged)
    down = experts.format.matrix_bytes(hidden, share)
    bias = 2 * (share * merged + hidden) if experts.bias else 0  # padded as the matrices are
    return count * (up + down + bias)


def layer_bytes(layer: Layer, shape: Shape, padding: Padding) -> int:
    """Bytes of a layer's parameters on one rank."""
    total = sum(linear_bytes(linear, shape.tensor) for linear in layer.linears)
    if layer.experts:
        total += experts_bytes(layer.experts, shape.tensor, expert=shape.expert, padding=padding)
    return total + layer.replicated_bytes + layer.sharded_bytes // shape.tensor


def stages(count: int, pipeline: int) -> tuple[range, ...]:
    """Layers of every stage: an equal share each, what remains goes to the stages before the last one, backwards."""
    base, remaining = divmod(count, pipeline)
    sizes = [base] * pipeline
    for back in range(2, remaining + 2):
        sizes[-back] += 1
    starts = [sum(sizes[:index]) for index in range(pipeline)]
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))


@dataclass(frozen=True, slots=True)
class StageWeights:
    """Bytes of one stage on one GPU."""

    parameters: int  # what vLLM's own classes hold after loading
    absorbed: int  # made from them after loading (MLA)

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.absorbed


def weights(
    facts: ModelFacts, shape: Shape, padding: Padding | None = None, *, vision: bool = True
) -> tuple[StageWeights, ...]:
    """Bytes of weights on one GPU of each pipeline stage, first stage first. `vision` loads the encoders, too."""
    tp, padding = shape.tensor, padding or Padding()
    if facts.total_bytes is not None:
        return (StageWeights(-(-facts.total_bytes // shape.gpus), 0),) * shape.pipeline
    kinds = {id(layer): layer for layer in facts.layers}
    per_layer = {key: layer_bytes(layer, shape, padding) for key, layer in kinds.items()}
    result = []
    for index, members in enumerate(stages(len(facts.layers), shape.pipeline)):
        total = sum(per_layer[id(facts.layers[at])] for at in members) + facts.rope_bytes
        total += _ends(facts, tp, first=index == 0, last=index == shape.pipeline - 1)
        if vision and index == 0:
            total += facts.vision_bytes + facts.vision_sharded_bytes // tp
        absorbed = sum(facts.layers[at].absorbed_bytes for at in members) // tp
        result.append(StageWeights(total, absorbed))
    return tuple(result)


def _ends(facts: ModelFacts, tp: int, *, first: bool, last: bool) -> int:
    """Embedding, output layer and final norm, where the stage has them."""
    width = facts.dense_bits // 8
    embedding = padded_vocabulary(facts) // tp * facts.hidden * width
    total = 0
    if first or (last and facts.tied):
        total += embedding
    if first:
        total += facts.position_bytes
    if last:
        total += facts.hidden * width * (1 if not facts.norm_bias else 2)
        total += 0 if facts.tied else linear_bytes(head_linear(facts), tp)
    return total
