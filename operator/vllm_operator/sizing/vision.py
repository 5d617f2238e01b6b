"""Weights of image encoders: a vision transformer, a merger or projector, and position tables.

Source: vllm/model_executor/models/qwen2_5_vl.py, qwen3_vl.py, siglip.py, gemma3_mm.py, pixtral.py. Families
that keep more than that
(Gemma 4, Llama 4) come out a few percent short, hence `SPREAD`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_operator.sizing.reader import ModelConfigError, Reader

GATED = frozenset({"qwen2_5_vl", "pixtral", "gemma4_vision"})
SPREAD = 1.1
"""Conservative factor on an encoder's weights."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Bytes of an encoder: divided by the tensor-parallel size, and the same on every rank."""

    sharded: int = 0
    replicated: int = 0


def encoder_of(outer: Reader, hidden: int) -> Encoder:
    """The encoder of a multimodal config; nothing where there is none, or where its sizes are not named."""
    vision = outer.section("vision_config")
    if vision is None:
        return Encoder()
    try:
        return _encoder(vision, vision.word("model_type", default=outer.word("model_type")), hidden)
    except ModelConfigError:
        return Encoder()


def _encoder(vision: Reader, kind: str, hidden: int) -> Encoder:
    width, depth = vision.positive("hidden_size", "embed_dim"), vision.positive("depth", "num_hidden_layers")
    intermediate = vision.positive("intermediate_size")
    out = vision.optional("out_hidden_size") or hidden
    merged = width * (vision.integer("spatial_merge_size", default=1) ** 2)
    matrices = 3 if kind in GATED else 2
    block = 4 * width * width + matrices * width * intermediate
    small = 9 * width + matrices * intermediate  # biases and norms, an upper bound where there are none
    patches = vision.integer("in_channels", "in_chans", "num_channels", default=3) * vision.positive("patch_size") ** 2
    embedding = patches * vision.integer("temporal_patch_size", default=1) * width
    mergers = 1 + len(vision.words("deepstack_visual_indexes")) if vision.find("spatial_merge_size") else 1
    merger = merged * merged + merged * out if vision.find("spatial_merge_size") else width * out
    sharded = depth * block + mergers * merger
    replicated = depth * small + embedding + _positions(vision) * width + mergers * 2 * merged
    return Encoder(2 * sharded, 2 * replicated)


def _positions(vision: Reader) -> int:
    """Rows of a learned position table."""
    named = vision.optional("num_position_embeddings", "position_embedding_size")
    if named is not None:
        return named
    image = vision.optional("image_size")
    return (image // vision.positive("patch_size")) ** 2 if image else 0
