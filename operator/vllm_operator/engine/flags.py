"""Which flags `spec.engine.extraArgs` may carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def _short(name: str, flags: Flags) -> str | None:
    """The short form that an argument is or begins with: `-q`, and `-qfp8` with its value attached."""
    if name in flags.short:
        return name
    return name[:2] if name[:2] in flags.short else None


def _spellings(name: str) -> tuple[str, ...]:
    """The flag itself, and `--enforce-eager` for `--no-enforce-eager`: both set the same option."""
    return (name, f"--{name.removeprefix('--no-')}") if name.startswith("--no-") else (name,)


def _abbreviated(name: str, flags: Flags) -> str | None:
    """The owned flag that a name abbreviates: to vLLM's parser any unambiguous beginning of a flag is that flag."""
    if name in ("-", "--"):
        return None
    known = (*flags.owned, *flags.short)
    return next((owned for spelled in _spellings(name) for owned in known if owned.startswith(spelled)), None)


def _problem(argument: str, flags: Flags) -> Problem | None:
    name = _name(argument)
    if short := _short(name, flags):
        owned = flags.short[short]
        return _owned_problem(short, owned, flags.owned[owned])
    for spelled in _spellings(name):
        if spelled in flags.owned:
            return _owned_problem(name, name, flags.owned[spelled])
    if name in flags.removed:
        return Problem(FIELD, f"{name} was removed from vLLM: use {flags.removed[name]}")
    if " " in name:
        return Problem(FIELD, f"{argument!r} is one word to vLLM: make the flag and its value two entries")
    if longer := _abbreviated(name, flags):
        return Problem(FIELD, f"{name} abbreviates {longer}, which is set by the operator: write flags in full")
    return None


def _first_word(arguments: Sequence[str]) -> tuple[Problem, ...]:
    if not arguments or arguments[0].startswith("-"):
        return ()
    sentence = f"must begin with a flag: {arguments[0]!r} would be a value of the operator's last flag"
    return (Problem(FIELD, sentence),)


def check_extra_args(arguments: Sequence[str]) -> tuple[Problem, ...]:
    """What is wrong with the flags among `arguments`; values of flags are not looked at."""
    flags = known_flags()
    found = (_problem(argument, flags) for argument in arguments if argument.startswith("-"))
    return (*_first_word(arguments), *(problem for problem in found if problem))
