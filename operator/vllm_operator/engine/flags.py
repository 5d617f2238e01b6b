"""Which flags `spec.engine.extraArgs` may carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from vllm_operator.errors import Problem

FIELD = "spec.engine.extraArgs"


@dataclass(frozen=True, slots=True)
class Flags:
    """What is known of vLLM's flags: those the operator owns (and the field behind each), short forms, removed ones."""

    owned: Mapping[str, str]
    short: Mapping[str, str]
    removed: Mapping[str, str]


@cache
def known_flags() -> Flags:
    """The table that ships with the package."""
    table: dict[str, Any] = yaml.safe_load((files("vllm_operator.engine") / "data" / "flags.yaml").read_text())
    return Flags(owned=table["owned"], short=table["short"], removed=table["removed"])


def _name(argument: str) -> str:
    """The flag's name as vLLM's parser reads it: `_` is `-`, `--x=1` and `--x.y 1` are about `--x`."""
    head = argument.partition("=")[0]
    return head.partition(".")[0].replace("_", "-") if head.startswith("--") else head


def _owned_problem(name: str, owned: str, field: str) -> Problem:
    spelled = name if name == owned else f"{name} (short for {owned})"
    instead = f"set {field} instead" if field else "remove it, the operator depends on its value"
    return Problem(FIELD, f"{spelled} is set by the operator: {instead}")


def _problem(argument: str, flags: Flags) -> Problem | None:
    name = _name(argument)
    if name in flags.short:
        owned = flags.short[name]
        return _owned_problem(name, owned, flags.owned[owned])
    if name in flags.owned:
        return _owned_problem(name, name, flags.owned[name])
    if name in flags.removed:
        return Problem(FIELD, f"{name} was removed from vLLM: use {flags.removed[name]}")
    # vLLM's parser takes any unambiguous beginning of a flag, so --tensor-parallel would pass behind our back.
    longer = [owned for owned in flags.owned if owned.startswith(name)]
    if longer and len(name) > len("--"):
        return Problem(FIELD, f"{name} abbreviates {longer[0]}, which is set by the operator: write flags in full")
    return None


def check_extra_args(arguments: Iterable[str]) -> tuple[Problem, ...]:
    """What is wrong with the flags among `arguments`; values of flags are not looked at."""
    flags = known_flags()
    found = (_problem(argument, flags) for argument in arguments if argument.startswith("-"))
    return tuple(problem for problem in found if problem)
