"""From a config to layers: attention, feed-forward and experts.

Source of the shapes: the classes under vllm/model_executor/models/ (llama.py, qwen2.py, qwen3.py, gemma2.py,
gemma3.py, mixtral.py,
qwen2_moe.py, qwen3_moe.py, deepseek_v2.py, gpt_oss.py, llama4.py, glm4_moe.py, minimax_m2.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_operator.sizing.families import Family, QKNorm
from vllm_operator.sizing.layers import AttentionCache, Experts, LatentCache, Layer, Linear, Output, Shard
from vllm_operator.sizing.quantization import Format, Quantization
from vllm_operator.sizing.reader import ModelConfigError, Reader

CACHE_SCALES = 16
"""Scales of queries, keys, values and probabilities that every attention layer keeps, 32 bit each (attention.py)."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What the builders of a layer share."""

    reader: Reader
    family: Family
    quantization: Quantization | None
    dense: Format

    @property
    def hidden(self) -> int:
        """Hidden size."""
        return self.reader.positive("hidden_size", "n_embd", "d_model")

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.reader.positive("num_attention_heads", "n_head")

    @property
    def kv_heads(self) -> int:
        """Key and value heads: all query heads where the config names none."""
        if self.reader.flag("multi_query") and not self.reader.flag("new_decoder_architecture"):
            return 1
        return self.reader.positive("num_key_value_heads", "num_kv_heads", default=self.heads)

    @property
    def head_size(self) -> int:
        """Size of one head."""
        return self.reader.optional("head_dim") or max(1, self.hidden // self.heads)

    def format(self, module: str, *, experts: bool = False) -> Format:
        """Format of the module in this checkpoint."""
        if self.quantization is None:
            return self.dense
        return self.quantization.format_of(module, self.dense, experts=experts)


@dataclass(frozen=True, slots=True)
class Heads:
    """Sizes of one attention layer, where they differ from the model's."""

    count: int
    kv: int
    size: int
    window: int = 0
    chunk: int = 0


def merge(*parts: Layer) -> Layer:
    """One layer out of its parts."""
    return Layer(
        linears=tuple(linear for part in parts for linear in part.linears),
        experts=next((part.experts for part in parts if part.experts), None),
        cache=next((part.cache for part in parts if part.cache), None),
        replicated_bytes=sum(part.replicated_bytes for part in parts),
        sharded_bytes=sum(part.sharded_bytes for part in parts),
        absorbed_bytes=sum(part.absorbed_bytes for part in parts),
    )


def attention(blue: Blueprint, prefix: str, heads: Heads) -> Layer:
    """Self-attention with its cache; `prefix` is the layer's name in the checkpoint."""
    family, reader, size = blue.family, blue.reader, heads.size
    bias = reader.flag("attention_bias", "bias", "qkv_bias")
    queries = heads.count * size * (2 if family.output_gate and reader.flag("attn_output_gate", default=True) else 1)
    keys = Output(heads.kv * size, heads.kv)
    qkv = Linear(
        "qkv_proj",
        blue.hidden,
        (Output(queries), keys, keys),
        Shard.COLUMN,
        blue.format(f"{prefix}.{family.attention_name}.q_proj"),
        bias=bias if family.qkv_bias is None else family.qkv_bias,
    )
    out = Linear(
        "o_proj",
        heads.count * size,
        (Output(blue.hidden),),
        Shard.ROW,
        blue.format(f"{prefix}.{family.attention_name}.o_proj"),
        bias=bias if family.o_bias is None else family.o_bias,
    )
    replicated, sharded = _qk_norm_bytes(blue, heads)
    return Layer(
        linears=(qkv, out),
        cache=AttentionCache(heads.kv, size, size, heads.window, heads.chunk),
        replicated_bytes=replicated + CACHE_SCALES,
        sharded_bytes=sharded + (heads.count * 2 if family.sinks else 0),
    )


def _qk_norm_bytes(blue: Blueprint, heads: Heads) -> tuple[int, int]:
    """Bytes of the query and key norms: replicated, divided by ranks."""
    kind = blue.family.qk_norm
    if blue.reader.flag("use_qk_norm") and kind is QKNorm.NONE and blue.reader.word("model_type") == "glm4_moe":
        kind = QKNorm.HEAD
    width = blue.dense.bits // 8
    if kind is QKNorm.HEAD:
        return 2 * heads.size * width, 0
    if kind is QKNorm.FULL:
        both = (heads.count + heads.kv) * heads.size * width
        return (0, both) if blue.family.rope else (both, 0)  # the Transformers backend repeats them
    return 0, 0


def latent_attention(blue: Blueprint, prefix: str) -> Layer:
    """Multi-head latent attention (deepseek_v2.py DeepseekV2MLAAttention), absorbed matrices included."""
    reader, hidden, heads = blue.reader, blue.hidden, blue.heads
    latent, rope = reader.positive("kv_lora_rank"), reader.positive("qk_rope_head_dim")
    nope, value = reader.positive("qk_nope_head_dim"), reader.positive("v_head_dim")
    query = reader.optional("q_lora_rank") or 0
    width = blue.dense.bits // 8

    def linear(name: str, inputs: int, outputs: tuple[int, ...], shard: Shard, module: str) -> Linear:
        merged = tuple(Output(size) for size in outputs)
        return Linear(name, inputs, merged, shard, blue.format(f"{prefix}.self_attn.{module}"))

    if query:
        down = linear("fused_qkv_a_proj", hidden, (query, latent + rope), Shard.REPLICATED, "q_a_proj")
        up = linear("q_b_proj", query, (heads * (nope + rope),), Shard.COLUMN, "q_b_proj")
    else:
        down = linear("kv_a_proj_with_mqa", hidden, (latent + rope,), Shard.REPLICATED, "kv_a_proj_with_mqa")
        up = linear("q_proj", hidden, (heads * (nope + rope),), Shard.COLUMN, "q_proj")
    kv_up = linear("kv_b_proj", latent, (heads * (nope + value),), Shard.COLUMN, "kv_b_proj")
    out = linear("o_proj", heads * value, (hidden,), Shard.ROW, "o_proj")
    index = indexer(blue, prefix, query) if blue.family.indexer else Layer()
    body = Layer(
        linears=(down, up, kv_up, out),
        cache=LatentCache(latent + rope, index_bytes=index_cache_bytes(reader) if blue.family.indexer else 0),
        replicated_bytes=(query + latent) * width + CACHE_SCALES,
        absorbed_bytes=heads * (nope + value) * latent * width,
    )
    return merge(body, index)


def indexer(blue: Blueprint, prefix: str, query: int) -> Layer:
    """The index of sparse attention (deepseek_v2.py Indexer), the same on every rank."""
    size, heads = blue.reader.positive("index_head_dim"), blue.reader.positive("index_n_heads")
    name = f"{prefix}.self_attn.indexer"
    queries = Linear("wq_b", query, (Output(size * heads),), Shard.REPLICATED, blue.format(f"{name}.wq_b"))
    keys = Linear("wk_weights_proj", blue.hidden, (Output(size), Output(heads)), Shard.REPLICATED, blue.dense)
    return Layer((queries, keys), replicated_bytes=2 * size * 4)


def index_cache_bytes(reader: Reader) -> int:
    """Bytes of a token in the index's own cache: FP8 keys and a 32-bit scale for every 128 of them."""
    size = reader.positive("index_head_dim")
    return size + size // 128 * 4


def expert_norms(blue: Blueprint) -> Layer:
    """What Gemma 4 adds where experts stand beside a dense block: three norms and the router's scales."""
    width = blue.dense.bits // 8
    return Layer(replicated_bytes=(4 * blue.hidden + expert_count(blue.reader) + 2) * width)


def feed_forward(blue: Blueprint, prefix: str, intermediate: int, name: str = "mlp") -> Layer:
    """A dense feed-forward block, gated where the family is."""
    bias = blue.reader.flag("mlp_bias") if blue.family.mlp_bias is None else blue.family.mlp_bias
    first = blue.format(f"{prefix}.{name}.gate_proj" if blue.family.gated else f"{prefix}.{name}.up_proj")
    outputs = (Output(intermediate), Output(intermediate)) if blue.family.gated else (Output(intermediate),)
    up = Linear(
        "gate_up_proj" if blue.family.gated else "up_proj", blue.hidden, outputs, Shard.COLUMN, first, bias=bias
    )
    down = Linear(
        "down_proj",
        intermediate,
        (Output(blue.hidden),),
        Shard.ROW,
        blue.format(f"{prefix}.{name}.down_proj"),
        bias=bias,
    )
    return Layer(linears=(up, down))


def expert_count(reader: Reader) -> int:
    """Routed experts of a layer, 0 for a dense model."""
    return reader.optional("num_local_experts", "num_experts", "n_routed_experts") or 0


def has_experts(blue: Blueprint, index: int) -> bool:
    """Whether the layer is a mixture of experts."""
    reader = blue.reader
    if not expert_count(reader) or index in (reader.find("mlp_only_layers") or ()):  # type: ignore[operator]
        return False
    chosen = reader.find("moe_layers")
    if isinstance(chosen, list):
        return index in chosen
    if index < reader.integer("first_k_dense_replace", default=0):
        return False
    if index % max(1, reader.integer("moe_layer_freq", default=1)):
        return False
    step = reader.integer("decoder_sparse_step", "interleave_moe_layer_step", default=1)
    return (index + 1) % max(1, step) == 0


def experts(blue: Blueprint, prefix: str) -> Layer:
    """Routed experts, router and shared experts."""
    reader, family, count = blue.reader, blue.family, expert_count(blue.reader)
    intermediate = reader.positive("moe_intermediate_size", "intermediate_size")
    top_k = reader.positive("num_experts_per_tok", "moe_topk", "experts_per_token", "top_k_experts")
    latent = reader.optional("moe_latent_size") or 0
    if top_k > count:
        raise ModelConfigError(f"num_experts_per_tok is {top_k}, but there are {count} experts")
    routed = Experts(
        count,
        top_k,
        latent or blue.hidden,
        intermediate,
        blue.format(f"{prefix}.{family.experts_name}.experts", experts=True),
        gated=family.gated,
        bias=bool(family.mlp_bias),
    )
    router = Linear(
        "gate",
        blue.hidden,
        (Output(count),),
        Shard.REPLICATED,
        Format(bits=family.router_bits),
        bias=family.router_bias,
    )
    correction = 4 * count if _corrects_scores(reader) else 0
    narrow = _latent_projections(blue, prefix, latent) if latent else ()
    body = Layer((router, *narrow), routed, replicated_bytes=correction)
    return merge(body, _shared_expert(blue, prefix, intermediate))


def _latent_projections(blue: Blueprint, prefix: str, latent: int) -> tuple[Linear, ...]:
    """Experts of a smaller hidden size: into it and back (nemotron_h.py NemotronHMoE)."""
    name, hidden = f"{prefix}.mixer", blue.hidden
    return (
        Linear("fc1_latent_proj", hidden, (Output(latent),), Shard.REPLICATED, blue.format(f"{name}.fc1_latent_proj")),
        Linear("fc2_latent_proj", latent, (Output(hidden),), Shard.REPLICATED, blue.format(f"{name}.fc2_latent_proj")),
    )


def _corrects_scores(reader: Reader) -> bool:
    """Routers with a score correction bias in fp32 (`noaux_tc`)."""
    return (
        reader.word("topk_method") == "noaux_tc"
        or reader.flag("use_routing_bias")
        or reader.word("model_type")
        in {
            "glm4_moe",
            "nemotron_h",
        }
    )


def _shared_expert(blue: Blueprint, prefix: str, intermediate: int) -> Layer:
    reader = blue.reader
    if reader.word("model_type").startswith("llama4"):
        return feed_forward(blue, prefix, reader.positive("intermediate_size"), "feed_forward.shared_expert")
    size = reader.optional("shared_expert_intermediate_size") or 0
    if size:
        shared = feed_forward(blue, prefix, size, "mlp.shared_expert")
        gate = Linear("shared_expert_gate", blue.hidden, (Output(1),), Shard.REPLICATED, blue.dense)
        return merge(shared, Layer((gate,)))
    number = reader.optional("n_shared_experts", "num_shared_experts") or 0
    each = reader.optional("moe_shared_expert_intermediate_size") or intermediate
    name = f"{blue.family.experts_name}.shared_experts"
    return feed_forward(blue, prefix, each * number, name) if number else Layer()


def norms(blue: Blueprint) -> Layer:
    """The norms of hidden size of one layer."""
    each = blue.hidden * (blue.dense.bits // 8) * (2 if blue.family.norm_bias else 1)
    return Layer(replicated_bytes=blue.family.norms * each)
