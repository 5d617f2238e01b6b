"""Formats of quantised weights: bytes of a matrix, and which module of a checkpoint has which format.

Source of the tensor shapes: vllm/model_executor/layers/quantization/ (fp8.py, auto_awq.py, auto_gptq.py, modelopt.py,
compressed_tensors/schemes/, bitsandbytes.py), file and class named at each scheme.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any


class Scheme(StrEnum):
    """A way to store a matrix."""

    DENSE = "unquantized"
    FP8_TENSOR = "fp8"  # one scale a merged projection: fp8.py, modelopt.py ModelOptFp8LinearMethod
    FP8_CHANNEL = "fp8-channel"  # one scale an output: compressed_tensors_w8a8_fp8.py
    FP8_BLOCK = "fp8-block"  # one scale a block: fp8.py Fp8LinearMethod with weight_block_size
    INT8_CHANNEL = "int8"  # compressed_tensors_w8a8_int8.py
    AWQ = "awq"  # auto_awq.py
    GPTQ = "gptq"  # auto_gptq.py
    WNA16 = "wna16"  # compressed_tensors_wNa16.py
    NVFP4 = "nvfp4"  # modelopt.py ModelOptNvFp4LinearMethod
    MXFP4 = "mxfp4"  # fused_moe/oracle/mxfp4.py: experts only, unless made while loading (online/mxfp4.py)
    MXFP8 = "mxfp8"  # online/mxfp8.py: one 8-bit scale a group of 32
    NF4 = "bitsandbytes"  # bitsandbytes.py: 4-bit NormalFloat, block 64


@dataclass(frozen=True, slots=True)
class Format:
    """How the elements of a matrix are stored. `bits` is per element, without scales."""

    scheme: Scheme = Scheme.DENSE
    bits: int = 16
    group: int = 0  # inputs that share a scale; 0: the whole row
    block: int = 0  # edge of a square block that shares a scale
    zero_points: bool = False
    ordered: bool = False  # GPTQ with desc_act keeps an order of inputs

    def matrix_bytes(self, rows: int, columns: int, merged: int = 1) -> int:
        """Bytes of `rows` outputs by `columns` inputs, scales and zero points included.

        `merged` is the number of projections that share the tensor (each has a scale of its own).
        """
        scales = _SCALES.get(self.scheme)
        return rows * columns * self.bits // 8 + (scales(self, rows, columns, merged) if scales else 0)


def _group_scales(fmt: Format, rows: int, columns: int, _merged: int) -> int:
    """16-bit scales of groups, zero points beside them, and what the kernels' layout adds."""
    groups = _ceil(columns, fmt.group or columns)
    total = groups * rows * 2
    if fmt.scheme in {Scheme.AWQ, Scheme.GPTQ} or fmt.zero_points:
        total += groups * rows * fmt.bits // 8
    if fmt.ordered:
        total += 4 * columns  # g_idx
    if fmt.scheme is Scheme.WNA16:
        total += 16  # weight_shape
    return total


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantisation section of a checkpoint.

    `ignored` are module names or patterns that stay unquantised; `layers` gives single modules their own format.
    """

    method: str
    linear: Format
    experts: Format
    ignored: tuple[str, ...] = ()
    layers: tuple[tuple[str, Format], ...] = ()
    kv_cache_dtype: str = "auto"
    targets_only: bool = False  # only modules named in `layers` are quantised

    def format_of(self, module: str, dense: Format, *, experts: bool = False) -> Format:
        """Format of the module (its full name in the checkpoint), `dense` where it is not quantised."""
        if _matches(self.ignored, module):
            return dense
        if self.layers:
            found = _by_tail(self.layers).get(_tail(module))
            if found is not None or self.targets_only:
                return found or dense
        chosen = self.experts if experts else self.linear
        return dense if chosen.scheme is Scheme.DENSE else chosen


@lru_cache(maxsize=64)
def _by_tail(layers: tuple[tuple[str, Format], ...]) -> Mapping[str, Format]:
    """Formats by module name. Checkpoints prefix modules differently: names are compared from `layers.` on."""
    return {_tail(name): fmt for name, fmt in layers}


TEXT_PREFIXES = frozenset(
    {"model.", "model.language_model.", "language_model.", "language_model.model.", "backbone.", "transformer."}
)
"""What checkpoints write before `layers.` in the language model; other prefixes are other parts (`mtp.layers.0`)."""


def _tail(name: str) -> str:
    at = name.find("layers.")
    return name[at:] if at > 0 and name[:at] in TEXT_PREFIXES else name


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[re.Pattern[str], ...]]:
    """Plain names from `layers.` on, and the rest as regular expressions; an invalid expression matches nothing."""
    names, expressions = set(), []
    for text in patterns:
        if text.startswith("re:"):
            try:
                expressions.append(re.compile(rf"(?:.*\.)?(?:{text[3:]})"))
            except re.error:
                continue
        elif "*" in text:
            glob = ".*".join(re.escape(part) for part in _tail(text).split("*"))
            expressions.append(re.compile(rf"(?:.*\.)?{glob}(?:\..*)?"))
        else:
            names.add(_tail(text))
    return frozenset(names), tuple(expressions)


def _matches(patterns: tuple[str, ...], module: str) -> bool:
    """Whether the module, or one that holds it, is named by a pattern."""
    names, expressions = _compiled(patterns)
    parts = _tail(module).split(".")
    if names and any(".".join(parts[start:end]) in names for end in range(len(parts), 0, -1) for start in (0, end - 1)):
        return True
    tail = _tail(module)
    return any(pattern.fullmatch(tail) or pattern.fullmatch(module) for pattern in expressions)


_SCALES: Mapping[Scheme, Callable[[Format, int, int, int], int]] = {
    Scheme.FP8_TENSOR: lambda _fmt, _rows, _columns, merged: 8 * merged,  # weight and input scale
    Scheme.FP8_CHANNEL: lambda _fmt, rows, _columns, _merged: 4 * rows,
    Scheme.INT8_CHANNEL: lambda _fmt, rows, _columns, _merged: 4 * rows,
    Scheme.FP8_BLOCK: lambda fmt, rows, columns, _merged: 4 * _ceil(rows, fmt.block) * _ceil(columns, fmt.block),
    Scheme.NVFP4: lambda _fmt, rows, columns, merged: rows * columns // 16 + 8 * merged,
    Scheme.MXFP4: lambda _fmt, rows, columns, _merged: rows * columns // 32,
    Scheme.MXFP8: lambda _fmt, rows, columns, _merged: rows * columns // 32,
    Scheme.NF4: lambda _fmt, rows, columns, _merged: 4 * _ceil(rows * columns, 64),
    Scheme.AWQ: _group_scales,
    Scheme.GPTQ: _group_scales,
    Scheme.WNA16: _group_scales,
}
"""Bytes of scales: (format, rows, columns, merged projections)."""


def dense(bits: int = 16) -> Format:
    """The format of a matrix that is not quantised."""
    return Format(Scheme.DENSE, bits)


ONLINE: Mapping[str, Format] = {
    "fp8": Format(Scheme.FP8_TENSOR, 8),
    "fp8_per_tensor": Format(Scheme.FP8_TENSOR, 8),
    "fp8_per_block": Format(Scheme.FP8_BLOCK, 8, block=128),
    "fp8_per_channel": Format(Scheme.FP8_CHANNEL, 8),
    "mxfp8": Format(Scheme.MXFP8, 8, group=32),
    "mxfp4": Format(Scheme.MXFP4, 4, group=32),
    "bitsandbytes": Format(Scheme.NF4, 4),
}
"""Formats that vLLM makes while loading an unquantised checkpoint (`--quantization`; vllm/config/quantization.py)."""

ONLINE_EXPERTS: Mapping[str, Format] = {
    "int8_per_channel_weight_only": Format(Scheme.INT8_CHANNEL, 8),
    "experts_int8": Format(Scheme.INT8_CHANNEL, 8),
    "nvfp4_per_token": Format(Scheme.NVFP4, 4, group=16),
}
"""The same for routed experts alone: all else stays as it is (`linear` unset there; experts_int8.py)."""


class UnknownQuantizationError(ValueError):
    """The checkpoint names a quantisation that this table does not know."""


def quantization_from_config(config: Mapping[str, Any]) -> Quantization | None:
    """Parse `quantization_config` (or `compression_config`) of a Hugging Face config; None when there is none.

    Raises UnknownQuantizationError for a method whose tensor shapes are not known here.
    """
    section = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(section, Mapping):
        return None
    method = str(section.get("quant_method") or "").lower()
    parser = _PARSERS.get(method)
    if parser is None:
        if not method:  # vLLM ignores a section without quant_method
            return None
        raise UnknownQuantizationError(method)
    return parser(section)


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(item) for item in value) if isinstance(value, Sequence) else ()


def _integer(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _fp8(section: Mapping[str, Any]) -> Quantization:
    block = section.get("weight_block_size")
    edge = _integer(block[0], 0) if isinstance(block, Sequence) and block else 0
    fmt = Format(Scheme.FP8_BLOCK, 8, block=edge) if edge else Format(Scheme.FP8_TENSOR, 8)
    ignored = _names(section.get("modules_to_not_convert")) + _names(section.get("ignored_layers"))
    return Quantization("fp8", fmt, fmt, ignored)


def _fbgemm(section: Mapping[str, Any]) -> Quantization:
    fmt = Format(Scheme.FP8_CHANNEL, 8)
    return Quantization("fbgemm_fp8", fmt, fmt, _names(section.get("modules_to_not_convert")))


def _awq(section: Mapping[str, Any]) -> Quantization:
    fmt = Format(Scheme.AWQ, _integer(section.get("bits"), 4), group=_integer(section.get("group_size"), 128))
    return Quantization("awq", fmt, fmt, _names(section.get("modules_to_not_convert")))


def _gptq(section: Mapping[str, Any]) -> Quantization:
    group = _integer(section.get("group_size"), 128)
    ordered = section.get("desc_act") is True
    fmt = Format(Scheme.GPTQ, _integer(section.get("bits"), 4), group=max(group, 0), ordered=ordered)
    return Quantization("gptq", fmt, fmt, _names(section.get("modules_to_not_convert")))


def _mxfp4(section: Mapping[str, Any]) -> Quantization:
    ignored = _names(section.get("modules_to_not_convert"))
    return Quantization("mxfp4", dense(), Format(Scheme.MXFP4, 4, group=32), ignored)


def _bitsandbytes(section: Mapping[str, Any]) -> Quantization:
    ignored = _names(section.get("llm_int8_skip_modules"))
    fmt = Format(Scheme.INT8_CHANNEL, 8) if section.get("load_in_8bit") else Format(Scheme.NF4, 4)
    return Quantization("bitsandbytes", fmt, fmt, ignored)


_ALGORITHMS: Mapping[str, Format] = {
    "FP8": Format(Scheme.FP8_TENSOR, 8),
    "FP8_PER_CHANNEL_PER_TOKEN": Format(Scheme.FP8_CHANNEL, 8),
    "FP8_PB_WO": Format(Scheme.FP8_BLOCK, 8, block=128),
    "NVFP4": Format(Scheme.NVFP4, 4, group=16),
    "W4A16_NVFP4": Format(Scheme.NVFP4, 4, group=16),
}


def _modelopt(section: Mapping[str, Any]) -> Quantization:
    inner = section.get("quantization")
    section = inner if isinstance(inner, Mapping) else section
    algorithm = str(section.get("quant_algo") or "").upper()
    ignored = _names(section.get("ignore")) or _names(section.get("exclude_modules"))
    kv = "fp8" if section.get("kv_cache_scheme") or section.get("kv_cache_quant_algo") else "auto"
    if algorithm == "MIXED_PRECISION":
        return _mixed(section, ignored, kv)
    fmt = _ALGORITHMS.get(algorithm)
    if fmt is None:
        raise UnknownQuantizationError(f"modelopt {algorithm or 'without quant_algo'}")
    return Quantization("modelopt", fmt, fmt, ignored, kv_cache_dtype=kv)


def _mixed(section: Mapping[str, Any], ignored: tuple[str, ...], kv: str) -> Quantization:
    modules = section.get("quantized_layers")
    layers = []
    for name, value in modules.items() if isinstance(modules, Mapping) else ():
        fmt = _ALGORITHMS.get(str(value.get("quant_algo")).upper()) if isinstance(value, Mapping) else None
        if fmt is None:
            raise UnknownQuantizationError(f"modelopt MIXED_PRECISION with {value}")
        layers.append((str(name), fmt))
    return Quantization("modelopt_mixed", dense(), dense(), ignored, tuple(layers), kv, targets_only=True)


def _compressed(section: Mapping[str, Any]) -> Quantization:
    groups = section.get("config_groups")
    values = list(groups.values()) if isinstance(groups, Mapping) else []
    formats = [_compressed_format(group) for group in values if isinstance(group, Mapping)]
    if not formats:
        raise UnknownQuantizationError("compressed-tensors without config_groups")
    kv = "fp8" if section.get("kv_cache_scheme") else "auto"
    ignored = _names(section.get("ignore"))
    named: list[tuple[str, Format]] = []
    for group, fmt in zip(values, formats, strict=True):
        named += [(target, fmt) for target in _names(group.get("targets")) if "." in target]
    return Quantization("compressed-tensors", formats[0], formats[0], ignored, tuple(named), kv)


def _compressed_format(group: Mapping[str, Any]) -> Format:
    weights = group.get("weights")
    if not isinstance(weights, Mapping):
        raise UnknownQuantizationError("compressed-tensors group without weights")
    bits, kind = _integer(weights.get("num_bits"), 0), weights.get("type", "int")
    strategy, size = str(weights.get("strategy") or ""), _integer(weights.get("group_size"), 0)
    activations = group.get("input_activations")
    if kind == "float" and bits == 4:  # noqa: PLR2004 - four-bit floats
        return Format(Scheme.NVFP4, 4, group=size or 16)
    if bits == 8 and strategy == "block":  # noqa: PLR2004 - eight-bit blocks
        block = weights.get("block_structure")
        return Format(Scheme.FP8_BLOCK, 8, block=_integer(block[0], 128) if isinstance(block, list) and block else 128)
    if bits == 8 and kind == "float":  # noqa: PLR2004 - eight-bit floats
        return Format(Scheme.FP8_CHANNEL if strategy == "channel" else Scheme.FP8_TENSOR, 8)
    if bits == 8 and activations:  # noqa: PLR2004 - eight-bit integers with quantised activations
        return Format(Scheme.INT8_CHANNEL, 8)
    if bits in {4, 8}:
        return Format(Scheme.WNA16, bits, group=max(size, 0), zero_points=weights.get("symmetric") is False)
    raise UnknownQuantizationError(f"compressed-tensors with {bits}-bit {kind} weights")


_PARSERS = {
    "fp8": _fp8,
    "awq": _awq,
    "awq_marlin": _awq,
    "gptq": _gptq,
    "gptq_marlin": _gptq,
    "mxfp4": _mxfp4,
    "bitsandbytes": _bitsandbytes,
    "fbgemm_fp8": _fbgemm,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mixed": _modelopt,
    "compressed-tensors": _compressed,
}
