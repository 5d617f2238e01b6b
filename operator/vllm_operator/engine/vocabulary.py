"""What `vllm serve` of a version understands: flags with their types, and names of parsers.

Read from `data/flags-<minor>.json`, which scripts/dump_flags.py takes from vLLM's own parser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

VERSIONS = ("0.30", "0.31", "0.32", "0.33")
NEWEST = VERSIONS[-1]

FlagType = Literal["switch", "int", "float", "size", "size-or-auto", "text", "text-or-json", "name", "json", "object"]
WITH_KEYS = ("json", "object", "text-or-json")


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its name in full, every spelling of it, and what it takes."""

    name: str
    spellings: tuple[str, ...]
    type: FlagType
    values: Literal["", "1", "?", "+"]  # none, exactly one, at most one, one or more
    optional: bool = False  # the words None and "" mean that it is unset
    repeats: bool = False
    choices: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()  # of an object


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Everything that one version understands; `flags` is keyed by every spelling."""

    version: str
    flags: Mapping[str, Flag]
    tool_parsers: tuple[str, ...]
    reasoning_parsers: tuple[str, ...]
    quantizations: tuple[str, ...]


def vocabulary(version: str) -> Vocabulary | None:
    """What vLLM of that minor version ("0.32") understands, or None when that is not known."""
    return _read(version) if version in VERSIONS else None


@cache
def _read(version: str) -> Vocabulary:
    data = json.loads((files("vllm_operator.engine") / "data" / f"flags-{version}.json").read_text())
    found = [_flag(name, raw) for name, raw in data["flags"].items()]
    return Vocabulary(
        version=version,
        flags={spelling: flag for flag in found for spelling in flag.spellings},
        tool_parsers=tuple(data["toolParsers"]),
        reasoning_parsers=tuple(data["reasoningParsers"]),
        quantizations=tuple(data["quantizations"]),
    )


def _flag(name: str, raw: Mapping[str, Any]) -> Flag:
    return Flag(
        name=name,
        spellings=(name, *raw.get("spellings", ())),
        type=raw["type"],
        values="" if raw["type"] == "switch" else raw.get("values", "1"),
        optional=raw.get("optional", False),
        repeats=raw.get("repeats", False),
        choices=tuple(str(choice) for choice in raw.get("choices", ())),
        keys=tuple(raw.get("keys", ())),
    )
