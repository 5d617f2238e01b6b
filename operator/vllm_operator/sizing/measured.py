"""What a running vLLM says about its KV cache, beside what was predicted.

Source: the Prometheus metric `vllm:cache_config_info` (vllm/v1/metrics/loggers.py), a gauge of value 1 whose
labels are the
cache configuration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vllm_operator.sizing.types import Band

METRIC = "vllm:cache_config_info"

_LINE = re.compile(rf"^{re.escape(METRIC)}\{{(.*)\}}\s+\S+", re.MULTILINE)
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Measured:
    """The KV cache of one engine: blocks on each GPU, tokens, and requests of full length at once."""

    blocks: int
    block_size: int
    kv_tokens: int
    max_concurrency: float | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the measured tokens are from the predicted band."""

    percent: float  # of the middle of the band; negative: fewer tokens than predicted
    outside: bool  # of the band

    @property
    def sentence(self) -> str:
        """For an Event."""
        side = "more" if self.percent > 0 else "fewer"
        return f"vLLM has room for {abs(self.percent):.1f} % {side} tokens of KV cache than was predicted."


def parse(text: str) -> Measured | None:
    """The measured cache in a page of Prometheus text; None where the metric is absent or holds no numbers.

    Versions that do not report tokens have blocks and a block size: their product, which counts each token
    once for a model
    with one kind of attention.
    """
    line = _LINE.search(text)
    if line is None:
        return None
    labels = dict(_LABEL.findall(line.group(1)))
    blocks, block = _whole(labels.get("num_gpu_blocks")), _whole(labels.get("block_size"))
    if blocks is None or block is None:
        return None
    tokens = _whole(labels.get("kv_cache_size_tokens"))
    return Measured(
        blocks, block, blocks * block if tokens is None else tokens, _number(labels.get("kv_cache_max_concurrency"))
    )


def drift(measured: Measured, predicted: Band) -> Drift:
    """Measured tokens against the predicted band."""
    middle = (predicted.low + predicted.high) / 2
    percent = (measured.kv_tokens - middle) / middle * 100 if middle else 0.0
    return Drift(round(percent, 1), not predicted.low <= measured.kv_tokens <= predicted.high)


def _whole(text: str | None) -> int | None:
    number = _number(text)
    return int(number) if number is not None and number >= 0 else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
