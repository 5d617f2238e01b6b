"""Models that the operator knows without looking at a file, and what a repository's name gives away about others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from vllm_operator.sizing.facts import ModelFacts, facts_from_config
from vllm_operator.sizing.gpus import data_text, parse_yaml
from vllm_operator.sizing.types import ParameterCount

_ROW = re.compile(r"^([A-Za-z0-9][^\s:]*):[ ]*\n((?:[ \t]+.*\n|\n|#.*\n)*)", re.MULTILINE)

_COUNT = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", re.IGNORECASE)

_BYTES: tuple[tuple[str, float], ...] = (
    ("nvfp4", 0.5625),
    ("mxfp4", 0.53125),
    ("fp4", 0.5625),
    ("awq", 0.5195),
    ("gptq-int8", 1.02),
    ("gptq", 0.5195),
    ("w4a16", 0.5195),
    ("int4", 0.5195),
    ("4bit", 0.53),
    ("bnb", 0.53),
    ("fp8", 1.0),
    ("w8a8", 1.0),
    ("int8", 1.0),
)
"""Words in a repository's name and the bytes of a parameter they stand for (requirements.yaml bytesPerParameter)."""


@cache
def _blocks() -> Mapping[str, str]:
    """The text of every row of models.yaml: one row is parsed at a time, since all of them take a tenth of a second."""
    text = data_text("models.yaml")
    return {found.group(1): found.group(0) for found in _ROW.finditer(text + "\n")}


@cache
def _folded() -> Mapping[str, str]:
    return {name.casefold(): name for name in _blocks()}


def names() -> tuple[str, ...]:
    """Repository ids of all models of the catalogue."""
    return tuple(_blocks())


@lru_cache(maxsize=256)
def row(repo_id: str) -> Mapping[str, Any] | None:
    """The catalogue's row of that repository id (upper and lower case do not matter), or None."""
    name = _folded().get(repo_id.casefold())
    if name is None:
        return None
    parsed: Mapping[str, Mapping[str, Any]] = parse_yaml(_blocks()[name])
    return parsed[name]


@lru_cache(maxsize=256)
def lookup(repo_id: str) -> ModelFacts | None:
    """Facts of a model of the catalogue; None for a repository it does not list."""
    found = row(repo_id)
    if found is None:
        return None
    size = (found.get("files") or {}).get("safetensorsBytes")
    return facts_from_config(found["config"], name=_folded()[repo_id.casefold()], file_bytes=size)


def near(repo_id: str, limit: int = 3) -> tuple[str, ...]:
    """Names of the catalogue that look like `repo_id`, best first: for "did you mean"."""
    wanted = repo_id.casefold()
    folded = _folded()
    close = difflib.get_close_matches(wanted, folded, n=limit, cutoff=0.6)
    tail = wanted.rpartition("/")[2]
    by_tail = [name for name in folded if tail and tail in name.rpartition("/")[2]]
    ordered = dict.fromkeys([*close, *by_tail])
    return tuple(folded[name] for name in ordered)[:limit]


def variants(repo_id: str) -> tuple[str, ...]:
    """Other entries of the catalogue that are the same model in another format (its name plus FP8, AWQ ...)."""
    stem = repo_id.casefold().rpartition("/")[2]
    found = [name for low, name in _folded().items() if low.rpartition("/")[2].startswith(stem + "-")]
    return tuple(name for name in found if bytes_from_name(name) < 2)  # noqa: PLR2004 - 16 bit is two bytes


def bytes_from_name(repo_id: str) -> float:
    """Bytes of a parameter, from a word like AWQ or FP8 in the name; 2 where there is none."""
    words = repo_id.casefold()
    return next((size for word, size in _BYTES if word in words), 2.0)


def parameters_from_name(repo_id: str) -> ParameterCount | None:
    """The number of parameters that a name like `org/model-8x7B-AWQ` states; None where it states none.

    Active parameters of a mixture (`A3B`) do not count: all of them are in memory.
    """
    tail = repo_id.rpartition("/")[2]
    best = 0.0
    for times, number, unit in _COUNT.findall(tail):
        billions = float(number) * (int(times) if times else 1)
        best = max(best, billions / 1000 if unit in "mM" else billions)
    return ParameterCount(repo_id, best, bytes_from_name(tail)) if best else None
