"""How far a layer's attention sees: everything, a sliding window, or its chunk.

Where a config lists `layer_types`, they decide. Otherwise the model type's own pattern does, as transformers'
config classes derive it.
"""

from __future__ import annotations

from vllm_operator.sizing.reader import Reader

USUAL_CHUNK = 8192
GLOBAL_EVERY = 4
"""Llama 4: every fourth layer sees everything."""


def local_span(text: Reader, index: int) -> tuple[int, int]:
    """(sliding window, attention chunk) of the layer in tokens; 0 means it sees everything."""
    window = text.optional("sliding_window") or 0
    if text.find("use_sliding_window") is False:
        window = 0
    chunk = text.optional("attention_chunk_size") or USUAL_CHUNK
    kinds = text.words("layer_types")
    if index < len(kinds):
        kind = kinds[index]
        return window if kind == "sliding_attention" else 0, chunk if kind == "chunked_attention" else 0
    if text.word("model_type").startswith("llama4"):
        return 0, 0 if (index + 1) % GLOBAL_EVERY == 0 else chunk
    return (window if _slides(text, index) else 0), 0


def _slides(text: Reader, index: int) -> bool:
    """Whether the layer of a model with a window uses it."""
    model, pattern = text.word("model_type"), text.find("sliding_window_pattern", "_sliding_window_pattern")
    if model.startswith("gemma2"):
        return index % 2 == 0
    if model.startswith("gemma3"):
        return (index + 1) % max(1, pattern if isinstance(pattern, int) else 6) != 0
    if isinstance(pattern, str) and pattern:  # Exaone 4: L is local, G global, and the last layer is global
        last = index + 1 == text.integer("num_hidden_layers", default=0)
        return pattern[index % len(pattern)] == "L" and not last
    if model.startswith(("qwen2", "qwen3")):
        return index >= text.integer("max_window_layers", default=0)
    return True
