"""A tiny Llama with LoRA adapters, in the layout of a Hugging Face repository, written with the standard library.

Random weights from a fixed seed: the same files on every machine. vLLM's CPU attention needs a head size of at least
32. Output is printable ASCII, because no other token has a row in the output matrix that is not zero, and the scale
of the weights is such that greedy answers depend on the prompt and do not fall into a loop at once.
"""

import json
import math
import random
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_SIZE = 64, 128, 2, 4, 2, 32
CONTEXT_TOKENS = 2048
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
BYTES = 256
VOCABULARY = BYTES + len(SPECIAL_TOKENS)
LORA_RANK, LORA_ALPHA = 8, 16
_PRINTABLE = range(0x20, 0x7F)
_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """Float32 values in row-major order."""

    shape: tuple[int, ...]
    values: "array[float]"

    @property
    def data(self) -> bytes:
        return self.values.tobytes()


def tiny_llama(folder: Path, *, seed: int = 0, shards: int = 1) -> Path:
    """Write the model into `folder`, which is made where missing, and return it.

    Args:
        folder: gets config, tokenizer and weights, as at the root of a repository.
        seed: decides every weight.
        shards: 1 writes `model.safetensors`; more write as many files and their index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        _tokenizer_files() | {"config.json": _config(), "generation_config.json": _generation()}
    ).items():
        _write_json(folder / name, content)
    tensors = dict(_weights(random.Random(seed)))  # noqa: S311 - weights, not secrets
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
    else:
        _write_shards(folder, tensors, shards)
    return folder


def lora_adapter(folder: Path, *, seed: int, base: str = "tiny-llama") -> Path:
    """Write a LoRA adapter of the tiny model into `folder` and return it; other seeds give other answers."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": LORA_RANK,
            "lora_alpha": LORA_ALPHA,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": ["q_proj", "v_proj", "o_proj"],
        },
    )
    source = random.Random(seed)  # noqa: S311 - weights, not secrets
    write_safetensors(folder / "adapter_model.safetensors", dict(_lora_weights(source)))
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write float32 tensors in the safetensors format (https://github.com/huggingface/safetensors, Format)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        handle.writelines(tensor.data for tensor in tensors.values())


def _write_shards(folder: Path, tensors: Mapping[str, Tensor], shards: int) -> None:
    names = list(tensors)
    placed: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        chosen = names[number::shards]
        write_safetensors(folder / file, {name: tensors[name] for name in chosen})
        placed |= dict.fromkeys(chosen, file)
    total = sum(len(tensor.data) for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT_TOKENS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": BYTES,
        "eos_token_id": BYTES + 1,
        "pad_token_id": BYTES + 2,
        "torch_dtype": "float32",
    }


def _generation() -> dict[str, Any]:
    return {"bos_token_id": BYTES, "eos_token_id": BYTES + 1, "pad_token_id": BYTES + 2}


def _tokenizer_files() -> dict[str, Any]:
    special = [
        {
            "id": BYTES + index,
            "content": token,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for index, token in enumerate(SPECIAL_TOKENS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": _vocabulary(), "merges": []},
    }
    names = dict(zip(("bos_token", "eos_token", "pad_token"), SPECIAL_TOKENS, strict=True))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_TOKENS,
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    return {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": names | settings,
        "special_tokens_map.json": names,
    }


def _vocabulary() -> dict[str, int]:
    """Return the byte-level alphabet of GPT-2 (printable bytes stand for themselves) and the special tokens.

    The id of a token is the value of its byte.
    """
    plain = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(BYTES, 2 * BYTES))
    alphabet = {chr(byte if byte in plain else next(others)): byte for byte in range(BYTES)}
    return alphabet | {token: BYTES + index for index, token in enumerate(SPECIAL_TOKENS)}


def _weights(source: random.Random) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors under the names that transformers gives them."""
    yield "model.embed_tokens.weight", _gaussian(source, VOCABULARY, HIDDEN, 1.0)
    for layer in range(LAYERS):
        for name, (rows, columns) in _projections().items():
            scale = 2.0 / math.sqrt(columns)
            yield f"model.layers.{layer}.{name}.weight", _gaussian(source, rows, columns, scale)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", _ones()
    yield "model.norm.weight", _ones()
    yield "lm_head.weight", _gaussian(source, VOCABULARY, HIDDEN, 1.0, kept_rows=_PRINTABLE)


def _projections() -> dict[str, tuple[int, int]]:
    """Return output and input size of each linear layer of one block."""
    return {
        "self_attn.q_proj": (HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD_SIZE),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }


def _lora_weights(source: random.Random) -> Iterator[tuple[str, Tensor]]:
    targets = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj")
    for layer in range(LAYERS):
        for name in targets:
            rows, columns = _projections()[name]
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            yield f"{prefix}.lora_A.weight", _gaussian(source, LORA_RANK, columns, 1.0 / math.sqrt(columns))
            yield f"{prefix}.lora_B.weight", _gaussian(source, rows, LORA_RANK, 1.0)


def _gaussian(
    source: random.Random, rows: int, columns: int, scale: float, kept_rows: Iterable[int] | None = None
) -> Tensor:
    """Return a random matrix; with `kept_rows` all other rows are zero."""
    kept = range(rows) if kept_rows is None else frozenset(kept_rows)
    values = array("f")
    for row in range(rows):
        values.extend(source.gauss(0.0, scale) if row in kept else 0.0 for _ in range(columns))
    return Tensor((rows, columns), values)


def _ones() -> Tensor:
    return Tensor((HIDDEN,), array("f", [1.0] * HIDDEN))
