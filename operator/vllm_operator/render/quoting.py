"""The jinja2 environment: every value is quoted as YAML by itself, so none can change the shape of a manifest."""

from __future__ import annotations

import json
import re
from functools import cache

from jinja2 import PackageLoader, StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

# JSON is YAML, but for characters that YAML wants escaped and JSON leaves alone (C1 controls, separators, BOM, lone
# surrogates). Non-ASCII text must not be escaped the JSON way: YAML would read a pair of surrogates as two characters.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class Fragment(str):
    """YAML that a macro of ours made: it is inserted as it is."""

    __slots__ = ()


def quote(value: object) -> str:
    """A value as YAML in flow style; undefined values raise jinja2's UndefinedError."""
    if isinstance(value, Fragment):
        return str(value)
    if isinstance(value, Undefined):
        return str(value)  # StrictUndefined raises here
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


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
