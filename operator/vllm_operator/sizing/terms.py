"""Everything that takes GPU memory besides weights and KV cache: activations, CUDA graphs, sampler, driver.

Bytes per GPU. Every term has a formula (its source beside it) or a band that docs/sizing.md explains.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.kv import LATENT_BLOCK
from vllm_operator.sizing.layers import Experts, LatentCache, Layer, Linear
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
    drafts: bool = False  # a drafting model of its own is loaded (not ngram)
    speculative_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Bytes:
    """A term with its optimistic and its conservative value."""

    low: float
    high: float

    def plus(self, other: Bytes) -> Bytes:
        """Both terms together."""
        return Bytes(self.low + other.low, self.high + other.high)

    def most(self, other: Bytes) -> Bytes:
        """The larger of two terms that are never there at once."""
        return Bytes(max(self.low, other.low), max(self.high, other.high))


NEWER_ARCHITECTURES = frozenset({"DeepseekV2ForCausalLM", "Qwen2MoeForCausalLM", "GraniteMoeForCausalLM"})
"""Mixtures of experts on the newer runner where a version has two (config/vllm.py)."""


def newer_runner(facts: ModelFacts, load: Load, terms: EngineTerms) -> bool:
    """Whether the newer model runner serves this (config/vllm.py use_v2_model_runner).

    Where a version has two, it takes the newer one for dense models and for few of the others, and not for speculation
    without a drafting model.
    """
    if not terms.two_runners:
        return True
    if load.speculative and not load.drafts:
        return False
    return facts.architecture in NEWER_ARCHITECTURES or not (facts.is_moe or facts.has_states)


def sampler_bytes(facts: ModelFacts, load: Load) -> int:
    """State of the sampler on the last stage: penalties, logit bias, bad words, grammar bitmasks.

    v1/worker/gpu/sample/penalties.py, logit_bias.py, bad_words.py and structured_outputs.py: one row a sequence.
    """
    vocabulary = facts.vocabulary
    return load.sequences * (4 * vocabulary + 2 * 4 * -(-vocabulary // 32) + 17 * 1024)


def non_torch(shape: Shape) -> Bytes:
    """Modules, cuBLAS and NCCL outside torch's allocator, and what the allocator does not split off large tensors.

    Measured: 0.22 to 0.25 GiB on one GPU and 0.02 to 0.10 GiB unsplit; 0.5 to 0.6 over two to four GPUs;
    published: up to 1.4 with
    experts dealt out. The lowest published value on one GPU is 0.13.
    """
    if shape.gpus == 1:
        return Bytes(0.14 * GIB, 0.34 * GIB)
    return Bytes(0.5 * GIB, 1.2 * GIB) if shape.expert else Bytes(0.35 * GIB, 0.75 * GIB)


NEWER_LOGITS = 6
"""Bytes of a logit at the sampler's peak on the newer runner: the 16-bit row and its 32-bit copy."""

OLDER_LOGITS = 14
"""On the older runner: 16-bit row, 32-bit copy, probabilities and random numbers of 32 bit."""


def logits_bytes(facts: ModelFacts, load: Load, shape: Shape, *, newer: bool) -> float:
    """The sampler's peak: logits of every sequence and the hidden states of all tokens they are picked from.

    Over several ranks the gathered rows are 16 bit, too (v1/worker/gpu/sample/sampler.py, v1/sample/sampler.py).
    """
    gathered = 2 / shape.tensor if shape.tensor > 1 else 0
    each = (NEWER_LOGITS if newer else OLDER_LOGITS) + gathered
    return load.sequences * facts.vocabulary * each + 2.0 * load.batched_tokens * facts.hidden


def _quantised_input(fmt: Format, columns: int) -> float:
    """Bytes of one token's quantised input to a matrix."""
    match fmt.scheme:
        case Scheme.FP8_BLOCK:
            return columns + 4 * -(-columns // (fmt.block or 128))
        case Scheme.FP8_TENSOR | Scheme.FP8_CHANNEL | Scheme.INT8_CHANNEL:
            return columns + 4
        case Scheme.MXFP8:
            return columns * 1.03125
        case Scheme.NVFP4:
            return columns * 0.5625
        case _:
            return 0


def dense_token_bytes(facts: ModelFacts, layer: Layer, tp: int) -> float:
    """Bytes of one token at the widest moment of a layer's forward pass.

    Attention: the hidden state (normed in place), the residual, queries, keys, values and the output. Feed-
    forward: hidden state,
    attention's output and residual, then either gate, up and their product, or, where the code keeps gate and
    up (qwen2.py
    Qwen2MLP), those with the last matrix' input and output.
    """
    hidden, widest = facts.hidden, 0.0
    qkv, out = layer.linear("qkv_proj"), layer.linear("o_proj")
    if qkv and out:
        widest = 2.0 * (2 * hidden + sum(qkv.outputs_per_rank(tp)) + out.inputs_per_rank(tp))
    latent, queries = layer.linear("fused_qkv_a_proj"), layer.linear("q_b_proj")
    if latent and queries and out:
        made = sum(latent.outputs_per_rank(tp)) + sum(queries.outputs_per_rank(tp))
        widest = 2.0 * (2 * hidden + made + out.inputs_per_rank(tp))
    for first in layer.linears:
        if first.name in {"gate_up_proj", "up_proj"}:
            widest = max(widest, 2 * 3 * hidden + _feed_forward_bytes(facts, layer, first, tp))
    return widest


def _feed_forward_bytes(facts: ModelFacts, layer: Layer, first: Linear, tp: int) -> float:
    both = sum(first.outputs_per_rank(tp))
    one = both // len(first.outputs)
    down = layer.linear("down_proj")
    quantised = _quantised_input(down.format, one) if down else 0.0
    last = 2 * (one + facts.hidden + (both if facts.keeps_gate_up else 0)) + quantised
    return max(2.0 * (both + one), last)


def experts_token_bytes(experts: Experts, tp: int, *, expert: bool) -> Held:
    """Bytes of one token in the experts: what a workspace keeps, and what comes and goes.

    fused_moe/experts/triton_moe.py workspace_shapes: two buffers, kept by v1/worker/workspace.py; the output
    shares the first. MXFP4's kernels
    (gpt_oss_triton_kernels_moe.py) keep none: gathered input, gate and up, their product, and the output by expert.
    """
    share = experts.intermediate if expert else experts.intermediate // tp
    up, hidden = share * (2 if experts.gated else 1), experts.hidden
    if experts.format.scheme is Scheme.MXFP4:
        return Held(0.0, 2.0 * experts.top_k * (up + share + 2 * hidden))
    buffers = 2.0 * experts.top_k * (max(share, hidden) + max(up, hidden))
    quantised = _quantised_input(experts.format, hidden) + experts.top_k * _quantised_input(experts.format, share)
    return Held(buffers, quantised)


def latent_bytes(facts: ModelFacts, load: Load, tp: int) -> float:
    """Workspace of latent attention's prefill (attention/mla_attention.py): keys and values of a chunk, unpacked."""
    layer = next((layer for layer in facts.layers if isinstance(layer.cache, LatentCache)), None)
    up = layer.linear("kv_b_proj") if layer else None
    if up is None:
        return 0.0
    chunk = min(max(8 * load.length, 4 * load.sequences * LATENT_BLOCK), 65536)
    return chunk * sum(up.outputs_per_rank(tp)) * 2.0


ROUTER_WORKSPACE = 40 * MIB
"""A second cuBLAS workspace for the router's 32-bit product, and what is kept beside it (measured: 26 to 61 MiB)."""


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that stay allocated after the profile run, and bytes that come and go on top of them."""

    kept: float
    passing: float


def stack(facts: ModelFacts, load: Load, shape: Shape) -> Held:
    """The widest layer's forward pass over all batched tokens.

    Dense layers that come before the first experts run before the experts' buffers are there.
    """
    tokens, tp = load.batched_tokens, shape.tensor
    kept, leading, later = 0.0, 0.0, 0.0
    for layer in {id(layer): layer for layer in facts.layers}.values():
        wide = dense_token_bytes(facts, layer, tp)
        if layer.experts:
            routed = experts_token_bytes(layer.experts, tp, expert=shape.expert)
            kept = max(kept, routed.kept)
            wide = max(wide, 3 * 2 * facts.hidden + routed.passing)
        if kept:
            later = max(later, wide)
        else:
            leading = max(leading, wide)
    routers = ROUTER_WORKSPACE if facts.is_moe else 0.0
    passing = max(later, leading - kept) if kept else leading
    return Held(tokens * kept + routers + latent_bytes(facts, load, tp), tokens * passing)


def cold_compile(facts: ModelFacts, load: Load, tp: int) -> float:
    """Peak of a compile that finds no cache: a second embedding, and two hidden states of all tokens.

    Not read in source but exact on six measured starts (Llama 1B and 8B, Qwen3-32B, Qwen2.5-7B, Gemma 2, gpt-
    oss-20b) and on two whose
    activations are larger; a warm start does not have it.
    """
    return 2.0 * facts.hidden * (-(-facts.vocabulary // 64) * 64 / tp + 2 * load.batched_tokens)


def transient(facts: ModelFacts, load: Load, shape: Shape, terms: EngineTerms) -> Bytes:
    """Peak of torch's memory in the profile run above the loaded model, what stays allocated included.

    The older runner keeps the last hidden states while it samples. Compiled code hands keys and values from
    piece to piece beside the
    rest. The optimistic bound is a warm start, the conservative one a cold one.
    """
    newer, tokens = newer_runner(facts, load, terms), load.batched_tokens
    held = stack(facts, load, shape)
    base = CUBLAS_WORKSPACE + held.kept + (0.0 if newer else 2.0 * tokens * facts.hidden)
    sampled = logits_bytes(facts, load, shape, newer=newer)
    slack = (0.1 if facts.has_states or facts.is_moe else 0.02) * GIB
    warm = base + max(held.passing, sampled)
    if load.enforce_eager:
        return Bytes(warm, warm + slack)
    handed = 4.0 * tokens * max(1, facts.kv_heads // shape.tensor) * facts.head_size
    compiled = base + max(held.passing + handed, sampled)
    return Bytes(warm, max(compiled, cold_compile(facts, load, shape.tensor)) + slack)


@dataclass(frozen=True, slots=True)
class Captures:
    """Numbers of CUDA graphs (config/vllm.py _set_cudagraph_sizes)."""

    piecewise: int
    full: int


def captures(load: Load, *, largest: int = 0) -> Captures:
    """1, 2, 4, then every 8 up to 248, then every 16.

    Up to twice the sequences for pieces, up to the sequences for whole passes.

    `largest` replaces the limit of pieces where a model sets its own (models/config.py GptOssForCausalLMConfig).
    """

    def count(limit: int) -> int:
        return sum(size <= limit for size in (1, 2, 4, *range(8, 256, 8), *range(256, 1025, 16)))

    wanted = largest or min(2 * load.sequences * (1 + load.speculative_tokens), USUAL_LARGEST)
    top = min(wanted, load.batched_tokens)
    return Captures(count(top), count(min(top, load.sequences * (1 + load.speculative_tokens))))


USUAL_LARGEST = 512

FIRST_CAPTURE = 140 * MIB
"""The first capture of a pool: workspaces and the largest batch (measured: 130 to 212 MiB)."""

NEWER_ESTIMATE_SPREAD = 0.25 * GIB
"""What the newer runner's estimate may be above the formula: it was not measured here.

Published for Llama 8B on A100 with 0.31: 1.44 GiB for activations and graphs, of which a cold compile
explains 1.01; the formula
says 0.36 for the rest.
"""


def graphs(facts: ModelFacts, load: Load, terms: EngineTerms) -> Bytes:
    """What vLLM sets aside for CUDA graphs: the first capture, then so much a graph.

    v1/worker/gpu/cudagraph_utils.py profile_cudagraph_memory, v1/worker/gpu_model_runner.py
    profile_cudagraph_memory. A piecewise
    graph has one piece a layer, an eighth of a MiB each (measured: 4 MiB for 24 and 32 layers, 6 for 48), 0.6
    MiB in layers with
    recurrent states; a graph of the whole pass takes 1 MiB for 32 layers.
    """
    newer = newer_runner(facts, load, terms)
    if load.enforce_eager or (newer and not terms.estimates_graphs):
        return Bytes(0.0, 0.0)
    number = captures(load, largest=1024 if facts.captures_1024 else 0)
    layers = len(facts.layers)
    piece = layers * (0.6 if facts.has_states else 0.125) * MIB
    whole = max(1.0, layers / 32) * MIB
    estimate = FIRST_CAPTURE + max(0, number.piecewise - 1) * piece + max(0, number.full - 1) * whole
    return Bytes(0.8 * estimate, 1.3 * estimate + (NEWER_ESTIMATE_SPREAD if newer else 0.0))


def lora_bytes(facts: ModelFacts, load: Load, tp: int) -> int:
    """Buffers for adapters: A and B of every matrix in every layer, of embedding and output layer.

    Source: lora/layers/), 16 bit.
    """
    if not load.lora_adapters:
        return 0
    total = 2 * (facts.hidden + facts.vocabulary // tp)
    for layer in facts.layers:
        for linear in layer.linears:
            outputs = linear.outputs_per_rank(tp)
            total += linear.inputs_per_rank(tp) * len(outputs) + sum(outputs)
    return total * 2 * load.lora_rank * load.lora_adapters
