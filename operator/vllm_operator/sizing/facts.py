"""What sizing must know about a model, read from its Hugging Face `config.json`.

A config that cannot be sized gives facts with a `problem`; nothing here raises on a config, whatever is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vllm_operator.sizing.blueprint import (
    Blueprint,
    Heads,
    attention,
    expert_norms,
    experts,
    feed_forward,
    has_experts,
    latent_attention,
    merge,
    norms,
)
from vllm_operator.sizing.families import Family, Mixer, family_of
from vllm_operator.sizing.layers import LatentCache, Layer, Linear, Output, Shard, StateCache
from vllm_operator.sizing.mixers import gated_delta, pattern_layer, pruned_block
from vllm_operator.sizing.quantization import Format, Scheme, UnknownQuantizationError, dense, quantization_from_config
from vllm_operator.sizing.reader import ModelConfigError, Reader
from vllm_operator.sizing.rope import rope_bytes
from vllm_operator.sizing.vision import encoder_of
from vllm_operator.sizing.windows import local_span

NO_HALF = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
"""Model types that vLLM refuses to run in float16 (config/model.py _FLOAT16_NOT_SUPPORTED_MODELS)."""

SIXTEEN_BIT = dense()

MOST_LAYERS = 2000
"""More layers than any model has; a config with more is a mistake."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's architecture numbers, as vLLM would build it. Sizes in elements unless a name says bytes."""

    name: str
    architecture: str
    hidden: int = 0
    vocabulary: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    max_length: int = 0
    yarn_length: int = 0  # the same up to vLLM 0.29; 0 where no YaRN scaling says otherwise
    layers: tuple[Layer, ...] = ()
    tied: bool = False
    head_format: Format = SIXTEEN_BIT  # of the output layer
    dense_bits: int = 16
    rope_bytes: int = 0
    rope_bytes_older: int = 0  # the same up to vLLM 0.30
    position_bytes: int = 0  # learned position embeddings
    vision_bytes: int = 0  # of encoders, the same on every rank
    vision_sharded_bytes: int = 0  # of encoders, divided by the tensor-parallel size
    quantization: str | None = None
    kv_cache_dtype: str = "auto"  # what the checkpoint asks for
    head_bias: bool = False
    pipeline: bool = True
    known: bool = True  # the architecture has a row; otherwise sizes are arranged as in Llama, with a wider band
    keeps_gate_up: bool = False
    norm_bias: bool = False
    captures_1024: bool = False  # CUDA graphs are captured up to 1024 tokens, not 512
    half_precision: bool = True  # vLLM agrees to compute it in float16
    schemes: frozenset[Scheme] = frozenset()  # ways its matrices are stored
    total_bytes: int | None = None  # stands in for the weights of a model whose tensors are not known
    file_bytes: int | None = None  # bytes of the safetensors files that vLLM loads
    problem: str = ""  # why it cannot be sized

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any(layer.experts for layer in self.layers)

    @property
    def has_states(self) -> bool:
        """Whether any layer keeps a recurrent state."""
        return any(isinstance(layer.cache, StateCache) for layer in self.layers)

    @property
    def is_latent(self) -> bool:
        """Whether attention keeps a compressed latent."""
        return any(isinstance(layer.cache, LatentCache) for layer in self.layers)

    @property
    def is_multimodal(self) -> bool:
        """Whether an encoder for images or sound is loaded too."""
        return self.vision_bytes + self.vision_sharded_bytes > 0


def facts_from_config(config: Mapping[str, Any], name: str = "", file_bytes: int | None = None) -> ModelFacts:
    """Facts of the model that `config` (the content of config.json) describes.

    `file_bytes` are the bytes of the safetensors files that the index's `weight_map` names. Never raises: what is
    wrong with the config is said in `problem`.
    """
    reader = Reader(config)
    architecture = next(iter(reader.words("architectures")), "") or reader.word("model_type") or "unknown"
    label = name or reader.word("_name_or_path") or architecture
    try:
        facts = _facts(reader, label, architecture)
    except UnknownQuantizationError as error:
        return ModelFacts(
            label, architecture, problem=f"quantization method {error} is not known", file_bytes=file_bytes
        )
    except (ModelConfigError, ZeroDivisionError, OverflowError) as error:
        return ModelFacts(label, architecture, problem=str(error), file_bytes=file_bytes)
    if not facts.known and file_bytes:
        facts = replace(facts, total_bytes=file_bytes)
    return replace(facts, file_bytes=file_bytes)


def _facts(reader: Reader, name: str, architecture: str) -> ModelFacts:
    text = reader.text().with_defaults()
    family = family_of(reader.words("architectures") or text.words("architectures"))
    quantization = quantization_from_config(reader.config) or quantization_from_config(text.config)
    blue = Blueprint(text, family, quantization, dense())
    encoder = encoder_of(reader, blue.hidden)
    layers = build_layers(blue)
    return ModelFacts(
        name=name,
        architecture=architecture,
        hidden=blue.hidden,
        vocabulary=text.positive("vocab_size"),
        heads=blue.heads,
        kv_heads=blue.kv_heads,
        head_size=blue.head_size,
        max_length=max_length(text),
        yarn_length=yarn_length(text),
        layers=layers,
        tied=text.flag("tie_word_embeddings", default=family.tied),
        head_format=blue.format("lm_head") if _quantizes_head(blue) else dense(),
        rope_bytes=rope_bytes(text, family, blue.head_size),
        rope_bytes_older=rope_bytes(text, family, blue.head_size, older=True),
        position_bytes=_positions(text, family, blue.hidden),
        head_bias=text.flag("lm_head_bias"),
        vision_bytes=encoder.replicated,
        vision_sharded_bytes=encoder.sharded,
        quantization=quantization.method if quantization else None,
        kv_cache_dtype=quantization.kv_cache_dtype if quantization else "auto",
        pipeline=family.pipeline,
        known=family.known,
        keeps_gate_up=family.keeps_gate_up,
        norm_bias=family.norm_bias,
        captures_1024=family.captures_1024,
        half_precision=text.word("model_type") not in NO_HALF,
        schemes=schemes_of(layers),
    )


def schemes_of(layers: tuple[Layer, ...]) -> frozenset[Scheme]:
    """Every way in which a matrix of the layers is stored."""
    kinds = {id(layer): layer for layer in layers}.values()
    linears = {linear.format.scheme for layer in kinds for linear in layer.linears}
    return frozenset(linears | {layer.experts.format.scheme for layer in kinds if layer.experts})


def _positions(text: Reader, family: Family, hidden: int) -> int:
    """Bytes of a learned position table, and of the factor on embeddings that Gemma keeps."""
    if family.learned_positions < 0:
        return 2 if family.normalizer else 0
    return (text.positive("max_position_embeddings", default=2048) + family.learned_positions) * hidden * 2


def _quantizes_head(blue: Blueprint) -> bool:
    """The output layer stays 16 bit unless the checkpoint names it among its quantised modules."""
    quantization = blue.quantization
    return quantization is not None and any(name == "lm_head" for name, _ in quantization.layers)


SCALED_ALREADY = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "mrope"})
"""Kinds of rope scaling whose factor is in max_position_embeddings already."""


def max_length(text: Reader) -> int:
    """The longest sequence the model takes, as vLLM derives it (config/model.py _get_and_verify_max_len)."""
    keys = (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        "model_max_length",
        "max_target_positions",
    )
    lengths = [length for key in keys if (length := text.optional(key))]
    longest = min(lengths) if lengths else 2048
    scaling = text.section("rope_scaling", "rope_parameters")
    if scaling is None or "gemma3" in text.word("model_type"):
        return longest
    kind = scaling.word("rope_type", "type", default="default")
    return longest if kind in SCALED_ALREADY else int(longest * scaling.number("factor", default=1.0))


def yarn_length(text: Reader) -> int:
    """The length that vLLM up to 0.29 gives a YaRN model: original length times factor; 0 for any other model."""
    scaling = text.section("rope_scaling", "rope_parameters")
    if scaling is None or scaling.word("rope_type", "type") != "yarn" or "gemma3" in text.word("model_type"):
        return 0
    original = scaling.optional("original_max_position_embeddings")
    return int(original * scaling.number("factor", default=1.0)) if original else 0


def build_layers(blue: Blueprint) -> tuple[Layer, ...]:
    """All layers in order. Layers that are equal are one object, so that sums over layers are quick."""
    count = blue.reader.positive("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if count > MOST_LAYERS:
        raise ModelConfigError(f"num_hidden_layers is {count}: at most {MOST_LAYERS} were expected")
    seen: dict[Layer, Layer] = {}
    built = []
    for index in range(count):
        layer = _layer(blue, index)
        built.append(seen.setdefault(layer, layer))
    return tuple(built)


def _layer(blue: Blueprint, index: int) -> Layer:
    prefix = f"model.layers.{index}"
    match blue.family.mixer:
        case Mixer.MAMBA:
            pattern = blue.reader.word("hybrid_override_pattern")
            if index >= len(pattern):
                raise ModelConfigError(
                    f"hybrid_override_pattern has {len(pattern)} letters, fewer than num_hidden_layers"
                )
            return pattern_layer(blue, prefix, pattern[index])
        case Mixer.BLOCKS:
            blocks = blue.reader.find("block_configs")
            if not isinstance(blocks, list) or index >= len(blocks) or not isinstance(blocks[index], Mapping):
                raise ModelConfigError(f"block_configs has no entry for layer {index}")
            return pruned_block(blue, prefix, blocks[index])
        case _:
            return merge(_mixer(blue, prefix, index), _feed_forward(blue, prefix, index), norms(blue))


def _mixer(blue: Blueprint, prefix: str, index: int) -> Layer:
    if blue.family.mixer is Mixer.LATENT:
        return latent_attention(blue, prefix)
    if blue.family.mixer is Mixer.GATED_DELTA and not is_full_attention(blue.reader, index):
        return gated_delta(blue, prefix)
    window, chunk = local_span(blue.reader, index)
    kv, size = blue.kv_heads, blue.head_size
    if blue.family.global_heads and not window:
        kv = blue.reader.optional("num_global_key_value_heads") or kv
        size = blue.reader.optional("global_head_dim") or size
    return attention(blue, prefix, Heads(blue.heads, kv, size, window, chunk))


def _feed_forward(blue: Blueprint, prefix: str, index: int) -> Layer:
    routed = has_experts(blue, index)
    if routed and not blue.family.dense_beside_experts:
        return experts(blue, prefix)
    dense_block = feed_forward(blue, prefix, intermediate_size(blue))
    return merge(dense_block, experts(blue, prefix), expert_norms(blue)) if routed else dense_block


def intermediate_size(blue: Blueprint) -> int:
    """Width of the dense feed-forward block."""
    keys = ("intermediate_size_mlp", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
    size = blue.reader.optional(*keys)
    if size is None and blue.family.feed_forward_multiple:
        return blue.family.feed_forward_multiple * blue.hidden
    return size or blue.reader.positive("intermediate_size")


def is_full_attention(text: Reader, index: int) -> bool:
    """Whether the layer of a hybrid is attention rather than a linear mixer."""
    kinds = text.words("layer_types")
    if kinds:
        return index < len(kinds) and kinds[index] == "full_attention"
    return (index + 1) % max(1, text.integer("full_attention_interval", default=4)) == 0


def head_linear(facts: ModelFacts) -> Linear:
    """The output layer as a matrix, its vocabulary padded to 64 (vocab_parallel_embedding.py)."""
    rows = (Output(padded_vocabulary(facts)),)
    return Linear("lm_head", facts.hidden, rows, Shard.COLUMN, facts.head_format, bias=facts.head_bias)


def padded_vocabulary(facts: ModelFacts) -> int:
    """Vocabulary rounded up to 64 rows."""
    return -(-facts.vocabulary // 64) * 64


__all__ = ["Family", "ModelFacts", "facts_from_config", "head_linear", "padded_vocabulary"]
