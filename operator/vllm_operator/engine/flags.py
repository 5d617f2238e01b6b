"""What `spec.engine.extraArgs` may carry: flags that the image's vLLM has, with values that its parser takes.

Three things are refused although vLLM would take them: flags that the operator owns, beginnings of a flag's name
(argparse completes them), and the same flag twice (the last one wins, silently).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from vllm_operator.engine.values import key_problem, near, value_problem
from vllm_operator.engine.vocabulary import VERSIONS, WITH_KEYS, Flag, Vocabulary, vocabulary
from vllm_operator.engine.words import Use, read

_WITH_EQUALS = "a value that begins with a dash is written --flag=value"


@dataclass(frozen=True, slots=True)
class Policy:
    """Flags with a meaning beyond vLLM's: owned ones with the field behind each, removed ones, ones that load code."""

    owned: Mapping[str, str]
    removed: Mapping[str, str]
    plugins: frozenset[str]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Sentences about arguments: `refused` for sure; `unknown` if the image holds the vLLM that they were read for."""

    refused: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()


@cache
def policy() -> Policy:
    """The table that ships with the package."""
    table: dict[str, Any] = yaml.safe_load((files("vllm_operator.engine") / "data" / "flags.yaml").read_text())
    return Policy(table["owned"], table["removed"], frozenset(table["plugins"]))


def judge(arguments: Sequence[str], known: Vocabulary) -> Judgement:
    """What is wrong with extra arguments for that version of vLLM."""
    uses = read(arguments, known)
    owned = {use: sentence for use in uses if (sentence := _owned(use.name, known))}
    others = [use for use in uses if use not in owned]
    first = _first_word(uses)
    return Judgement(
        refused=(*first, *owned.values()),
        unknown=(*_parse_problems(uses[bool(first) :], known, skip=owned), *_twice(others, known)),
        plugins=tuple(sorted({use.name for use in others} & policy().plugins)),
    )


def parse_problems(arguments: Sequence[str], known: Vocabulary) -> tuple[str, ...]:
    """Why the parser of that version would not take the arguments as they are meant, owned flags or not."""
    uses = read(arguments, known)
    return (*_parse_problems(uses, known), *_twice(uses, known))


def _first_word(uses: Sequence[Use]) -> tuple[str, ...]:
    if not uses or uses[0].name:
        return ()
    return (f"must begin with a flag: {uses[0].values[0]!r} would be a value of the operator's last flag",)


def _owned(name: str, known: Vocabulary) -> str:
    """That the operator sets the flag, under whatever spelling, or that the name abbreviates such a flag."""
    flag = known.flags.get(name)
    full = _owned_name((name, *flag.spellings) if flag else (name, f"--{name.removeprefix('--no-')}"))
    if full is not None:
        spelled = f"{name} (short for {full})" if not name.startswith("--") else name
        return f"{spelled} is set by the operator: {_instead(full)}"
    if flag or name in policy().removed:
        return ""
    longer = next((one for one in _completions(name, known) if _owned_name(known.flags[one].spellings)), None)
    return f"{name} abbreviates {longer}, which is set by the operator: write flags in full" if longer else ""


def _owned_name(spellings: Sequence[str]) -> str | None:
    return next((spelling for spelling in spellings if spelling in policy().owned), None)


def _instead(owned: str) -> str:
    field = policy().owned[owned]
    return f"set {field} instead" if field else "remove it, the operator depends on its value"


def _completions(name: str, known: Vocabulary) -> Iterator[str]:
    """Spellings that a name is the beginning of: to argparse it is that flag, if there is only one."""
    if name not in ("", "-", "--"):
        yield from (spelling for spelling in known.flags if spelling.startswith(name))


def _parse_problems(uses: Sequence[Use], known: Vocabulary, skip: Mapping[Use, str] | None = None) -> Iterator[str]:
    for index, use in enumerate(uses):
        if skip and use in skip:
            continue
        flag = known.flags.get(use.name)
        if not use.name:
            yield _stray(use, uses[index - 1] if index else None, known)
        elif flag is None:
            yield _no_flag(use.name, known)
        else:
            yield from _value_problems(use, flag)


def _stray(use: Use, before: Use | None, known: Vocabulary) -> str:
    flag = known.flags.get(before.name) if before else None
    if flag and before and flag.type == "switch":
        return f"{before.name} takes no value, so not {use.values[0]!r}: {_switch(flag)}"
    return f"{use.values[0]!r} is the value of no flag" + (f": {flag.name} takes one" if flag else "")


def _no_flag(name: str, known: Vocabulary) -> str:
    if name in policy().removed:
        return f"{name} was removed from vLLM: use {policy().removed[name]}"
    if " " in name:
        return f"{name!r} is one word to vLLM: make the flag and its value two entries; {_WITH_EQUALS}"
    if not name.startswith("--") and not name[1:2].isalpha():
        return f"{name} is no flag: {_WITH_EQUALS}"
    if longer := next(_completions(name, known), None):
        return f"{name} abbreviates {longer}: write flags in full"
    elsewhere = [version for version in VERSIONS if version != known.version and _has(version, name)]
    if elsewhere:
        return f"vLLM {known.version} has no flag {name}: it is one of {' and '.join(elsewhere)}"
    return f"vLLM {known.version} has no flag {name}{_nearest(name, known)}"


def _has(version: str, name: str) -> bool:
    other = vocabulary(version)
    return other is not None and name in other.flags


def _nearest(name: str, known: Vocabulary) -> str:
    found = near(name, tuple(known.flags))
    owned = _owned_name((found.removeprefix(": did you mean ").removesuffix("?"),))
    return f"{found} That is set by the operator: {_instead(owned)}" if owned else found


def _value_problems(use: Use, flag: Flag) -> Iterator[str]:
    if use.keys and flag.type not in WITH_KEYS:
        yield f"{flag.name} has no keys: {use.name}.{use.keys} is for flags that take JSON"
    elif use.keys and (problem := key_problem(flag, use.keys)):
        yield f"{flag.name} {problem}"
    elif flag.type == "switch":
        if use.values:
            yield f"{use.name} takes no value, so not {use.values[0]!r}: {_switch(flag)}"
    elif not use.values and flag.values != "?":
        yield f"{use.name} needs a value; {_WITH_EQUALS}"
    elif not use.keys:
        problems = (value_problem(flag, value) for value in use.values)
        yield from (f"{use.name} {problem}" for problem in problems if problem)


def _switch(flag: Flag) -> str:
    return f"write {' or '.join(spelling for spelling in flag.spellings if spelling.startswith('--'))}"


def _twice(uses: Sequence[Use], known: Vocabulary) -> Iterator[str]:
    """Flags that are given twice, or once as a whole and once by keys: vLLM keeps one of them."""
    seen: dict[str, set[str]] = {}
    for use in uses:
        flag = known.flags.get(use.name)
        if flag is None or flag.repeats:
            continue
        before = seen.setdefault(flag.name, set())
        if before and ("" in (use.keys, *before) or (use.keys in before and not use.keys.endswith("+"))):
            yield f"{flag.name} is given twice: keep one"
        before.add(use.keys)
