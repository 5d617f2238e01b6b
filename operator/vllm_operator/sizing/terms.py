"""Everything that takes GPU memory besides weights and KV cache: activations, CUDA graphs, sampler, driver.

Bytes per GPU. Every term has a formula (its source beside it) or a band that docs/sizing.md explains.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.layers import Experts, LatentCache, Layer
from vllm_operator.sizing.quantization import Format, Scheme
from vllm_operator.sizing.versions import EngineTerms
from vllm_operator.sizing.weights import GIB, Shape

MIB = 2**20
CUBLAS_WORKSPACE = 32 * MIB
"""Workspace of cuBLAS on Hopper and later: 32 MiB; 8 MiB before (NVIDIA cuBLAS documentation, cublasSetWorkspace)."""


@dataclass(frozen=True, slots=True)
class Load:
    """How the engine is asked to run, as far as memory goes."""

    batched_tokens: int
    sequences: int
    length: int
    enforce_eager: bool = False
    lora_adapters: int = 0
    lora_rank: int = 0
    speculative: bool = False
    speculative_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Bytes:
    """A term with its optimistic and its conservative value."""

    low: float
    high: float

    def plus(self, other: Bytes) -> Bytes:
        """Both terms together."""
        return Bytes(self.low + other.low, self.high + other.high)


def newer_runner(facts: ModelFacts, load: Load, terms: EngineTerms) -> bool:
    """Whether the newer model runner serves this (config/vllm.py use_v2_model_runner).

    Where a version has two, it takes the newer one for plain dense models only.
    """
    if not terms.two_runners:
        return True
    hybrid = any(layer.cache is not None and not hasattr(layer.cache, "kv_heads") for layer in facts.layers)
    return not (facts.is_moe or hybrid or load.speculative)


def sampler_bytes(facts: ModelFacts, load: Load) -> int:
    """State of the sampler on the last stage: penalties, logit bias, bad words, grammar bitmasks.

    v1/worker/gpu/sample/penalties.py, logit_bias.py, bad_words.py and structured_outputs.py: one row a sequence.
    """
    vocabulary = facts.vocabulary
    return load.sequences * (4 * vocabulary + 2 * 4 * -(-vocabulary // 32) + 17 * 1024)


def non_torch(shape: Shape) -> Bytes:
    """Modules, cuBLAS and NCCL outside torch's allocator: 0.22 to 0.25 GiB on one GPU, 0.5 to 1.4 over several.

    Source: measured.
    """
    if shape.gpus == 1:
        return Bytes(0.14 * GIB, 0.26 * GIB)
    return Bytes(0.30 * GIB, 0.75 * GIB) if not shape.expert else Bytes(0.5 * GIB, 1.2 * GIB)


def logits_bytes(facts: ModelFacts, load: Load, shape: Shape) -> int:
    """Logits of every sequence: 16 bit, a 32-bit copy, and the gathered 16-bit rows.

    Source: v1/worker/gpu/sample/sampler.py.
    """
    gathered = 2 if shape.tensor > 1 else 0
    return load.sequences * facts.vocabulary * (8 + gathered)


def _quantised_input(fmt: Format, columns: int) -> float:
    """Bytes of one token's quantised input to a matrix."""
    match fmt.scheme:
        case Scheme.FP8_BLOCK:
            return columns + 4 * -(-columns // (fmt.block or 128))
        case Scheme.FP8_TENSOR | Scheme.FP8_CHANNEL | Scheme.INT8_CHANNEL:
            return columns + 4
        case Scheme.NVFP4:
            return columns * 0.5625
        case _:
            return 0


def dense_token_bytes(facts: ModelFacts, layer: Layer, tp: int) -> float:
    """Bytes of one token at the widest moment of a layer's forward pass.

    Held all the while: the caller's hidden state, the attention's output, the residual (3 * hidden). Then
    either gate, up and their
    product together, or, where the code keeps gate and up (qwen2.py Qwen2MLP), those with the last matrix'
    input and output.
    """
    hidden = facts.hidden
    widest = 0.0
    for first in layer.linears:
        if first.name not in {"gate_up_proj", "up_proj"}:
            continue
        both = sum(first.outputs_per_rank(tp))
        one = both // len(first.outputs)
        down = layer.linear("down_proj")
        quantised = _quantised_input(down.format, one) if down else 0.0
        product = 2 * (both + one)
        last = 2 * (one + hidden + (both if facts.keeps_gate_up else 0)) + quantised
        widest = max(widest, product, last)
    qkv = layer.linear("qkv_proj")
    if qkv is not None:
        total = sum(qkv.outputs_per_rank(tp))
        widest = max(widest, 2 * (2 * total + hidden))
    return 2 * 3 * hidden + widest


def experts_token_bytes(experts: Experts, tp: int, *, expert: bool) -> float:
    """Bytes of one token in the experts' workspaces (fused_moe/experts/triton_moe.py workspace_shapes)."""
    share = experts.intermediate if expert else experts.intermediate // tp
    up = share * (2 if experts.gated else 1)
    return 2 * experts.top_k * (max(share, experts.hidden) + max(up, experts.hidden))


def latent_bytes(facts: ModelFacts, load: Load, tp: int) -> float:
    """Workspace of latent attention's prefill (attention/mla_attention.py): keys and values of a chunk, unpacked."""
    layer = next((layer for layer in facts.layers if isinstance(layer.cache, LatentCache)), None)
    up = layer.linear("kv_b_proj") if layer else None
    if up is None:
        return 0.0
    chunk = min(max(8 * load.length, 4 * load.sequences * 64), 65536)
    return chunk * sum(up.outputs_per_rank(tp)) * 2


def transient(facts: ModelFacts, load: Load, shape: Shape) -> Bytes:
    """Peak of torch's memory in the profile run above what stays allocated."""
    tokens = load.batched_tokens
    kinds = {id(layer): layer for layer in facts.layers}.values()
    stack, routed = 0.0, 0.0
    for layer in kinds:
        stack = max(stack, dense_token_bytes(facts, layer, shape.tensor))
        if layer.experts:
            routed = max(routed, experts_token_bytes(layer.experts, shape.tensor, expert=shape.expert))
    held = 2 * 4 * facts.hidden
    body = max(tokens * stack, tokens * (routed + held)) + latent_bytes(facts, load, shape.tensor)
    low = max(body, logits_bytes(facts, load, shape)) + CUBLAS_WORKSPACE
    compiled = 1.0 if load.enforce_eager else 1.25
    return Bytes(low, low * compiled + (0.25 * GIB if facts.is_moe else 0.05 * GIB))


def graphs(facts: ModelFacts, load: Load, terms: EngineTerms) -> Bytes:
    """What vLLM sets aside for CUDA graphs (v1/worker/gpu/cudagraph_utils.py profile_cudagraph_memory)."""
    if load.enforce_eager or (newer_runner(facts, load, terms) and not terms.estimates_graphs):
        return Bytes(0.0, 0.0)
    if facts.is_moe or any(not hasattr(layer.cache, "kv_heads") for layer in facts.layers if layer.cache):
        return Bytes(0.3 * GIB, 1.6 * GIB)
    return Bytes(0.25 * GIB, 1.0 * GIB)


def lora_bytes(facts: ModelFacts, load: Load, tp: int) -> int:
    """Buffers for adapters: A and B of every matrix in every layer (lora/layers/), 16 bit."""
    if not load.lora_adapters:
        return 0
    total = 0
    for layer in facts.layers:
        for linear in layer.linears:
            outputs = linear.outputs_per_rank(tp)
            total += load.lora_rank * (linear.inputs_per_rank(tp) * len(outputs) + sum(outputs))
    return total * 2 * load.lora_adapters
