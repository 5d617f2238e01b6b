"""Reads arguments as vLLM's parser does: which word is a flag, and which are its values.

vLLM rewrites the words before argparse sees them (vllm/utils/argparse_utils.py, FlexibleArgumentParser): `_` in a name
is `-`, `--x.a 1` is `--x '{"a": 1}'`, and any word that begins with a dash and has a dot in it is taken for the latter.
So a value that begins with a dash is only one after `=`, whole numbers excepted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_operator.engine.vocabulary import Vocabulary

_OPTIMIZATION = "--optimization-level"


@dataclass(frozen=True, slots=True)
class Use:
    """One flag as it is used: its name as written but for `_`, keys behind dots, and values."""

    name: str
    keys: str = ""
    values: tuple[str, ...] = ()
    attached: bool = False  # the value came with the flag, as in --x=1


def is_flag(word: str) -> bool:
    """Whether a word begins a flag: a dash, but neither alone nor before a whole number."""
    return word.startswith("-") and word != "-" and not re.fullmatch(r"-\d+", word)


def read(arguments: Sequence[str], known: Vocabulary) -> tuple[Use, ...]:
    """Flags in their order. Words before the first flag come as a use without a name."""
    found: list[Use] = []
    rest = list(arguments)
    if stray := _take(rest, None):
        found.append(Use("", values=stray))
    while rest:
        use = _head(rest.pop(0), known)
        # Words that a flag does not take stay with it: whoever judges the use can say so.
        found.append(Use(use.name, use.keys, use.values + _take(rest, _at_most(use, known)), use.attached))
        if stray := _take(rest, None):
            found.append(Use("", values=stray))
    return tuple(found)


def _at_most(use: Use, known: Vocabulary) -> int | None:
    """How many words after it belong to a flag; None: all of them."""
    if use.attached:
        return 0
    flag = known.flags.get(use.name)
    if use.keys or flag is None:
        return 1 if use.keys else None
    return {"": 0, "1": 1, "?": 1, "+": None}[flag.values]


def _take(rest: list[str], at_most: int | None) -> tuple[str, ...]:
    """Words up to the next flag, no more than `at_most`; they leave `rest`."""
    end = next((index for index, word in enumerate(rest) if is_flag(word)), len(rest))
    end = end if at_most is None else min(end, at_most)
    taken = tuple(rest[:end])
    del rest[:end]
    return taken


def _head(word: str, known: Vocabulary) -> Use:
    """The flag that one word is or begins with."""
    if word.startswith("-O"):
        return Use(_OPTIMIZATION, values=(word[2:].removeprefix("="),) if word != "-O" else (), attached=word != "-O")
    head, equals, value = word.partition("=")
    name, _, keys = head.partition(".")
    if name.startswith("--"):
        name = name.replace("_", "-")
    short = name[:2]
    if not name.startswith("--") and name not in known.flags and short in known.flags and name != short:
        return Use(short, values=(word[2:],), attached=True)  # -n2
    return Use(name, keys, (value,) if equals else (), bool(equals))
