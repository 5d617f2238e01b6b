"""Bytes of the rotary position tables, one copy on every rank."""

from __future__ import annotations

from vllm_operator.sizing.families import Family, Mixer
from vllm_operator.sizing.reader import Reader


def rope_bytes(text: Reader, family: Family, head_size: int, *, older: bool = False) -> int:
    """Bytes of all cosine and sine tables (rotary_embedding/__init__.py get_rope, base.py cos_sin_cache).

    A table has one row a position and `rotary size` columns; yarn tables have `original length * factor` rows and, in
    gpt-oss and DeepSeek, stay in 32 bit; multimodal rope makes four times the rows (mrope.py).
    """
    if family.learned_positions >= 0 or not family.rope or family.mixer is Mixer.MAMBA:
        return 0
    scaling = text.section("rope_scaling", "rope_parameters") or Reader({})
    if family.global_heads:
        return _two_tables(text, head_size)
    kind = scaling.word("rope_type", "type", default="default")
    rows = text.optional("max_position_embeddings") or 2048
    factor = text.number("partial_rotary_factor", default=scaling.number("partial_rotary_factor", default=1.0))
    size = text.optional("qk_rope_head_dim") if family.mixer is Mixer.LATENT else None
    columns = size or int(head_size * min(max(factor, 0.0), 1.0))
    scale = scaling.number("factor", default=1.0)
    plain = rows * (family.ropes - 1)  # Gemma 3: a second table without scaling
    width = 2
    if kind in {"yarn", "deepseek_yarn"}:
        rows = int((scaling.optional("original_max_position_embeddings") or rows) * scale)
        width = 4 if family.mixer is Mixer.LATENT or family.sinks else 2
    elif kind == "linear":
        rows = int(rows * scale)
    if scaling.find("mrope_section") is not None:
        rows *= 4 if older or family.older_positions == 1 else 1
    return (rows + plain) * columns * width


def _two_tables(text: Reader, head_size: int) -> int:
    """Gemma 4: one table for sliding layers, one for the others, whose heads are larger (gemma4_rope.py)."""
    rows = text.optional("max_position_embeddings") or 2048
    full = text.optional("global_head_dim") or head_size
    return rows * (head_size + full) * 2
