"""Whether vLLM's parser takes a value for a flag (types: vllm/utils/argparse_utils.py, vllm/engine/arg_utils.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from difflib import get_close_matches

from vllm_operator.engine.vocabulary import Flag

_DECIMAL_SIZE, _BINARY_SIZE = r"\d+(?:\.\d+)?[kmgt]", r"\d+[KMGT]"
_SHOWN_CHOICES = 40


def value_problem(flag: Flag, value: str) -> str:
    """What is wrong with a value, as the rest of a sentence that begins with the flag; empty when nothing is."""
    if flag.optional and value in ("", "None"):
        return ""
    expected, holds = _TYPES[flag.type]
    if not holds(value):
        return f"takes {expected}, not {value!r}"
    if flag.choices and _chosen(flag, value) not in flag.choices:
        return f"takes one of {', '.join(flag.choices[:_SHOWN_CHOICES])}, not {value!r}{near(value, flag.choices)}"
    return _key_problem(flag, json.loads(_expanded(value))) if flag.type == "object" else ""


def key_problem(flag: Flag, path: str) -> str:
    """What is wrong with the keys of `--flag.key.key`, as the rest of a sentence; empty when nothing is."""
    keys = path.removesuffix("+").split(".")
    if not all(keys):
        return f"has an empty key in {path!r}"
    return _key_problem(flag, {keys[0]: None})


def near(word: str, words: tuple[str, ...]) -> str:
    """The known word that is nearest to an unknown one, as the end of a sentence."""
    found = get_close_matches(word, words, n=1)
    return f": did you mean {found[0]}?" if found else ""


def _key_problem(flag: Flag, given: dict[str, object]) -> str:
    unknown = [key for key in given if flag.keys and key not in flag.keys]
    return f"has no key {unknown[0]!r}{near(unknown[0], flag.keys)}" if unknown else ""


def _chosen(flag: Flag, value: str) -> str:
    """The value as it is compared with the choices."""
    if flag.type == "name":
        return value.lower().replace("-", "_")
    return str(int(value)) if flag.type == "int" else value


def _converts(convert: Callable[[str], object]) -> Callable[[str], bool]:
    def holds(value: str) -> bool:
        try:
            convert(value)
        except (ValueError, RecursionError):  # thousands of brackets
            return False
        return True

    return holds


def _is_size(value: str) -> bool:
    """1k is 1000 and 1K is 1024; only decimal units take a fraction."""
    word = value.strip()
    return bool(re.fullmatch(f"{_DECIMAL_SIZE}|{_BINARY_SIZE}", word)) or _converts(int)(word)


def _is_size_or_auto(value: str) -> bool:
    return value.strip().lower() == "auto" or _is_size(value)


def _expanded(value: str) -> str:
    """Sizes outside strings are written out before JSON is read."""
    parts = re.split(r'("(?:[^"\\]|\\.)*")', value)
    parts[::2] = [re.sub(rf"\b(?:{_DECIMAL_SIZE}|{_BINARY_SIZE})\b", "0", part) for part in parts[::2]]
    return "".join(parts)


def _is_object(value: str) -> bool:
    try:
        return isinstance(json.loads(_expanded(value)), dict)
    except (ValueError, RecursionError):
        return False


def _is_text_or_json(value: str) -> bool:
    return not re.fullmatch(r"(?s)\s*{.*}\s*", value) or _converts(json.loads)(value)


_TYPES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "int": ("a whole number", _converts(int)),
    "float": ("a number", _converts(float)),
    "size": ("a number such as 4096, 8k or 2G", _is_size),
    "size-or-auto": ("auto or a number such as 4096, 8k or 32K", _is_size_or_auto),
    "json": ("JSON", _converts(json.loads)),
    "object": ("a JSON object", _is_object),
    "text-or-json": ("text, or a JSON object", _is_text_or_json),
    "name": ("a name", lambda _: True),
    "text": ("text", lambda _: True),
}
