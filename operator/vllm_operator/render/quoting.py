"""The jinja2 environment: every value is quoted as YAML by itself, so none can change the shape of a manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache

from jinja2 import PackageLoader, StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

# JSON strings are YAML, but for characters that YAML wants escaped and JSON leaves alone (C1 controls, separators,
# BOM). Non-ASCII text must not be escaped the JSON way: YAML would read a pair of surrogates as two characters.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_LONGEST_KEY = 1000  # beyond 1024 characters YAML's parsers want a key to be announced by "? "


class Fragment(str):
    """YAML that a macro of ours made: it is inserted as it is."""

    __slots__ = ()


def quote(value: object) -> str:
    """A value as YAML in flow style; undefined values raise jinja2's UndefinedError."""
    if isinstance(value, Fragment):
        return str(value)
    if isinstance(value, Undefined):
        return str(value)  # StrictUndefined raises here
    return _flow(value)


def _flow(value: object) -> str:
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(key))}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):
        return _float(value)
    return json.dumps(value)


def _key(key: str) -> str:
    text = _flow(key)
    return text if len(text) < _LONGEST_KEY else f"? {text} "


def _float(value: float) -> str:
    """YAML 1.1 takes 1e-07 for a word: its floats have a point."""
    mantissa, exponent, digits = repr(value).partition("e")
    point = "" if "." in mantissa or not exponent else ".0"
    return f"{mantissa}{point}{exponent}{digits}"


def _block(text: str, width: int) -> Fragment:
    """What a macro made, indented to stand at column `width`."""
    return Fragment(text.rstrip("\n").replace("\n", "\n" + " " * width))


@cache
def environment() -> ImmutableSandboxedEnvironment:
    """The environment of the templates that ship with the package."""
    made = ImmutableSandboxedEnvironment(
        loader=PackageLoader("vllm_operator.render", "templates"),
        undefined=StrictUndefined,
        finalize=quote,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    made.filters["block"] = _block
    return made
