"""Layers that are no plain attention: gated delta nets, Mamba-2, and blocks that a search has pruned.

Source of the shapes: vllm/model_executor/models/qwen3_next.py, qwen3_5.py, nemotron_h.py, nemotron_nas.py and
vllm/model_executor/layers/mamba/ (mamba_mixer2.py, mamba_utils.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_operator.sizing.blueprint import Blueprint, Heads, attention, experts, feed_forward, merge, norms
from vllm_operator.sizing.layers import Layer, Linear, Output, Shard, StateCache
from vllm_operator.sizing.reader import ModelConfigError, Reader


def gated_delta(blue: Blueprint, prefix: str) -> Layer:
    """A gated delta net (Qwen3-Next, Qwen3.5)."""
    reader, hidden, width = blue.reader, blue.hidden, blue.dense.bits // 8
    key_heads, value_heads = reader.positive("linear_num_key_heads"), reader.positive("linear_num_value_heads")
    key_size, value_size = reader.positive("linear_key_head_dim"), reader.positive("linear_value_head_dim")
    kernel = reader.positive("linear_conv_kernel_dim")
    keys, values = key_heads * key_size, value_heads * value_size
    name = f"{prefix}.linear_attn"
    wide = tuple(Output(size) for size in (keys, keys, values, values))
    projections = (
        Linear("in_proj_qkvz", hidden, wide, Shard.COLUMN, blue.format(f"{name}.in_proj_qkv")),
        Linear("in_proj_ba", hidden, (Output(value_heads),) * 2, Shard.COLUMN, blue.format(f"{name}.in_proj_b")),
        Linear("conv1d", kernel, (Output(keys), Output(keys), Output(values)), Shard.COLUMN, blue.dense),
        Linear("out_proj", values, (Output(hidden),), Shard.ROW, blue.format(f"{name}.out_proj")),
    )
    cache = StateCache(
        conv_elements=(2 * keys + values) * (kernel - 1),
        conv_bytes=width,
        state_elements=value_heads * value_size * key_size,
        state_bytes=state_width(reader, width),
        kernel=kernel,
        kind="gated-delta",
    )
    return Layer(projections, cache=cache, replicated_bytes=value_size * width, sharded_bytes=value_heads * (4 + width))


def state_width(reader: Reader, width: int) -> int:
    """Bytes of one element of the recurrent state."""
    named = reader.word("mamba_ssm_dtype", "mamba_ssm_cache_dtype")
    return {"float32": 4, "float16": 2, "bfloat16": 2}.get(named, width)


def mamba(blue: Blueprint, prefix: str) -> Layer:
    """A Mamba-2 mixer."""
    reader, hidden, width = blue.reader, blue.hidden, blue.dense.bits // 8
    heads, size = reader.positive("mamba_num_heads"), reader.positive("mamba_head_dim")
    groups, state = reader.positive("n_groups", "mamba_n_groups"), reader.positive("ssm_state_size", "mamba_d_state")
    kernel = reader.positive("conv_kernel", "mamba_d_conv")
    inner, shared = heads * size, groups * state
    bias, conv_bias = reader.flag("use_bias", "mamba_proj_bias"), reader.flag("use_conv_bias", default=True)
    name, grouped = f"{prefix}.mixer", Output(shared, groups)
    projections = (
        Linear(
            "in_proj",
            hidden,
            (Output(inner), Output(inner), grouped, grouped, Output(heads)),
            Shard.COLUMN,
            blue.format(f"{name}.in_proj"),
            bias=bias,
        ),
        Linear("conv1d", kernel, (Output(inner), grouped, grouped), Shard.COLUMN, blue.dense, bias=conv_bias),
        Linear("out_proj", inner, (Output(hidden),), Shard.ROW, blue.format(f"{name}.out_proj"), bias=bias),
    )
    cache = StateCache(
        conv_elements=(inner + 2 * shared) * (kernel - 1),
        conv_bytes=width,
        state_elements=inner * state,
        state_bytes=state_width(reader, width),
        kernel=kernel,
    )
    return Layer(projections, cache=cache, sharded_bytes=inner * width + heads * (4 + 2 * width))


def pattern_layer(blue: Blueprint, prefix: str, letter: str) -> Layer:
    """One layer of a hybrid pattern: M Mamba-2, * attention, - feed-forward, E experts."""
    match letter:
        case "M":
            body = mamba(blue, prefix)
        case "*":
            body = attention(blue, prefix, Heads(blue.heads, blue.kv_heads, blue.head_size))
        case "-":
            body = feed_forward(blue, prefix, blue.reader.positive("intermediate_size"), "mixer")
        case "E":
            body = experts(blue, prefix)
        case _:
            raise ModelConfigError(f"hybrid_override_pattern has the letter {letter!r}: M, *, - and E are known")
    return merge(body, norms(blue))


def pruned_block(blue: Blueprint, prefix: str, block: Mapping[str, Any]) -> Layer:
    """One block of a NAS-pruned model: attention or feed-forward may be absent or smaller."""
    reader = Reader(block)
    parts = [Layer()]
    norm = blue.hidden * (blue.dense.bits // 8)
    part = reader.section("attention")
    if part and not part.flag("no_op") and not part.flag("replace_with_linear"):
        kv = blue.heads // part.positive("n_heads_in_group")
        parts += [attention(blue, prefix, Heads(blue.heads, kv, blue.head_size)), Layer(replicated_bytes=norm)]
    part = reader.section("ffn")
    if part and not part.flag("no_op") and not part.flag("replace_with_linear"):
        wide = int(2 * part.number("ffn_mult", default=1.0) * blue.hidden / 3)
        intermediate = -(-wide // 256) * 256  # nemotron_nas.py _ffn_mult_to_intermediate_size
        parts += [feed_forward(blue, prefix, intermediate), Layer(replicated_bytes=norm)]
    return merge(*parts)
