"""What is particular to each architecture that vLLM serves, as a table.

Source of every row: the class of that name under vllm/model_executor/models/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Mixer(StrEnum):
    """What a model's layers mix tokens with."""

    ATTENTION = "attention"
    LATENT = "latent"  # multi-head latent attention
    GATED_DELTA = "gated-delta"  # attention in some layers, gated delta net in the others
    MAMBA = "mamba"  # a pattern of Mamba-2, attention and feed-forward layers
    BLOCKS = "blocks"  # block_configs of a NAS-pruned model


class QKNorm(StrEnum):
    """Norm of queries and keys: none, one weight a head dimension, or one over all heads."""

    NONE = "none"
    HEAD = "head"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Family:
    """Traits of an architecture. `None` for a bias means: as the config says."""

    mixer: Mixer = Mixer.ATTENTION
    qkv_bias: bool | None = None
    o_bias: bool | None = None
    mlp_bias: bool | None = None
    router_bias: bool = False
    qk_norm: QKNorm = QKNorm.NONE
    norms: int = 2  # norms of hidden size in a layer
    norm_bias: bool = False
    gated: bool = True
    keeps_gate_up: bool = False  # the feed-forward code holds gate and up while the last matrix runs
    sinks: bool = False
    output_gate: bool = False
    tied: bool = False  # transformers' default of tie_word_embeddings
    pipeline: bool = True
    learned_positions: int = -1  # offset of the position table; negative: rotary
    ropes: int = 1  # rotary tables of different base
    global_heads: bool = False  # layers that see everything have heads of their own number and size
    dense_beside_experts: bool = False  # a dense block beside the experts of the same layer
    feed_forward_multiple: int = 0  # width of the feed-forward block where the config names none, in hidden sizes
    normalizer: bool = False  # embeddings are multiplied by a stored number
    rope: bool = True  # position tables are kept (vLLM's own classes; the Transformers backend keeps none)
    older_positions: int = 1  # rows of a multimodal rope table up to vLLM 0.30, in rows of later ones
    attention_name: str = "self_attn"  # what a layer's attention is called in checkpoints
    experts_name: str = "mlp"
    indexer: bool = False  # sparse attention picks tokens with an index of its own
    router_bits: int = 16
    captures_1024: bool = False
    known: bool = True


LLAMA = Family()
QWEN2 = Family(qkv_bias=True, o_bias=False, keeps_gate_up=True)
QWEN3 = Family(o_bias=None, qk_norm=QKNorm.HEAD, keeps_gate_up=True)
GEMMA3 = Family(qk_norm=QKNorm.HEAD, norms=4, tied=True, ropes=2, keeps_gate_up=True, normalizer=True)
DEEPSEEK = Family(mixer=Mixer.LATENT, keeps_gate_up=True)
QWEN3VL = Family(qk_norm=QKNorm.HEAD, keeps_gate_up=True, older_positions=4)
QWEN35 = Family(older_positions=4, mixer=Mixer.GATED_DELTA, qk_norm=QKNorm.HEAD, output_gate=True, keeps_gate_up=True)

GEMMA4 = Family(
    qk_norm=QKNorm.HEAD,
    norms=4,
    tied=True,
    global_heads=True,
    normalizer=True,
    dense_beside_experts=True,
    keeps_gate_up=True,
)
SPARSE = Family(mixer=Mixer.LATENT, keeps_gate_up=True, indexer=True)

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Ministral3ForCausalLM": LLAMA,
    "Mistral3ForConditionalGeneration": LLAMA,
    "MixtralForCausalLM": LLAMA,
    "Phi3ForCausalLM": LLAMA,
    "GraniteForCausalLM": LLAMA,
    "DeciLMForCausalLM": Family(mixer=Mixer.BLOCKS),
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2MoeForCausalLM": QWEN2,
    "Qwen2VLForConditionalGeneration": QWEN2,
    "Qwen2_5_VLForConditionalGeneration": QWEN2,
    "MiMoForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3MoeForCausalLM": QWEN3,
    "Qwen3VLForConditionalGeneration": QWEN3VL,
    "Qwen3VLMoeForConditionalGeneration": QWEN3VL,
    "Qwen3NextForCausalLM": QWEN35,
    "Qwen3_5ForConditionalGeneration": QWEN35,
    "Qwen3_5MoeForConditionalGeneration": QWEN35,
    "GemmaForCausalLM": Family(tied=True, keeps_gate_up=True),
    "Gemma2ForCausalLM": Family(norms=4, tied=True, keeps_gate_up=True, normalizer=True),
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3,
    "GlmForCausalLM": Family(rope=False),
    "Glm4ForCausalLM": Family(norms=4, keeps_gate_up=True),
    "Glm4MoeForCausalLM": Family(keeps_gate_up=True),
    "Olmo2ForCausalLM": Family(qk_norm=QKNorm.FULL, rope=False),
    "Olmo3ForCausalLM": Family(qk_norm=QKNorm.FULL, rope=False),
    "Exaone4ForCausalLM": Family(qk_norm=QKNorm.HEAD),
    "GptOssForCausalLM": Family(
        qkv_bias=True, o_bias=True, router_bias=True, sinks=True, mlp_bias=True, captures_1024=True
    ),
    "MiniMaxM2ForCausalLM": Family(qk_norm=QKNorm.FULL, router_bits=32),
    "NemotronHForCausalLM": Family(
        mixer=Mixer.MAMBA,
        norms=1,
        gated=False,
        qkv_bias=False,
        o_bias=False,
        attention_name="mixer",
        experts_name="mixer",
    ),
    "Gemma4ForConditionalGeneration": GEMMA4,
    "Gemma4ForCausalLM": GEMMA4,
    "OPTForCausalLM": Family(
        qkv_bias=True, o_bias=True, mlp_bias=True, norm_bias=True, gated=False, tied=True, learned_positions=2
    ),
    "FalconForCausalLM": Family(norms=1, norm_bias=True, gated=False, tied=True, feed_forward_multiple=4),
    "PhiMoEForCausalLM": Family(qkv_bias=True, o_bias=True, norm_bias=True),
    "DeepseekV32ForCausalLM": SPARSE,
    "GlmMoeDsaForCausalLM": SPARSE,
    "Llama4ForConditionalGeneration": LLAMA,
    "Llama4ForCausalLM": LLAMA,
    "DeepseekV2ForCausalLM": DEEPSEEK,
    "DeepseekV3ForCausalLM": DEEPSEEK,
    "KimiK25ForConditionalGeneration": DEEPSEEK,
}

UNKNOWN = Family(known=False)
"""An architecture without a row: the sizes its config names, arranged as in Llama, with a wider band."""


def family_of(architectures: tuple[str, ...]) -> Family:
    """The first listed architecture that has a row; UNKNOWN when none has."""
    return next((FAMILIES[name] for name in architectures if name in FAMILIES), UNKNOWN)
