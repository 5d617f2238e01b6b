"""What of a config.json goes into a report: every key that sizing reads, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

NAMED = frozenset({"config_groups", "quantized_layers"})
"""Objects whose keys are names of groups and modules."""

DEEPEST = 16
"""Levels of a config; none known has more than six."""

_LARGEST = 2**63 - 1


@cache
def keys() -> frozenset[str]:
    """The keys that sizing reads."""
    text = files("vllm_operator.fetch").joinpath("config_keys.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def reduced(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what sizing does not read, and without values that no JSON holds."""
    return {key: _reduced(value, key, DEEPEST) for key, value in config.items() if key in keys()}


def _reduced(value: object, key: str, deeper: int) -> object:
    if deeper == 0:
        return None
    if isinstance(value, Mapping):
        kept = value if key in NAMED else {name: one for name, one in value.items() if name in keys()}
        return {_text(name): _reduced(one, name, deeper - 1) for name, one in kept.items()}
    if isinstance(value, list):
        return [_reduced(one, "", deeper - 1) for one in value]
    return _scalar(value)


def _scalar(value: object) -> object:
    match value:
        case str():
            return _text(value)
        case int() if abs(value) <= _LARGEST:
            return value
        case float() if math.isfinite(value):
            return value
        case _:
            return None


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode("utf-8")
