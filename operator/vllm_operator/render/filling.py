"""Templates give the shape, and values never go through their text, so no value can change it.

Each `{{ }}` leaves a mark in the text. The text is parsed as YAML, once for each shape that a template can take, and
every mark gives way to its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import yaml
from jinja2 import PackageLoader, StrictUndefined, Template, Undefined, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

# libyaml where it is built in: ten times the speed of the parser in Python.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_VALUES = "values_of_marks"  # in the context of a template
_SIGN = "\ue000"  # for private use (Unicode): no template holds it


class Fragment(str):
    """YAML that a macro of ours made: it is inserted as it is."""

    __slots__ = ()


@pass_context
def _mark(context: Context, value: object) -> str:
    """What stands in the text for a value; undefined values raise jinja2's UndefinedError."""
    if isinstance(value, Fragment | Undefined):
        return str(value)  # StrictUndefined raises here
    values: list[object] = context[_VALUES]
    values.append(value)
    return f'"{_SIGN}{len(values) - 1}"'


def _block(text: str, width: int) -> Fragment:
    """What a macro made, indented to stand at column `width`."""
    return Fragment(text.rstrip("\n").replace("\n", "\n" + " " * width))


@cache
def environment() -> ImmutableSandboxedEnvironment:
    """The environment of the templates that ship with the package."""
    made = ImmutableSandboxedEnvironment(
        loader=PackageLoader("vllm_operator.render", "templates"),
        undefined=StrictUndefined,
        finalize=_mark,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        auto_reload=False,  # a look at the file each time
    )
    made.filters["block"] = _block
    return made


def fill(template: Template, values: Mapping[str, Any]) -> dict[str, Any]:
    """The document that a template makes of values, which are JSON-like; tuples become lists."""
    marked: list[object] = []
    text = template.render({**values, _VALUES: marked})
    filled: dict[str, Any] = _filled(_parsed(text), marked)
    return filled


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:  # noqa: ANN401 - JSON; it is shared, and so never handed out
    return yaml.load(text, _LOADER)  # noqa: S506 - a safe loader


def _filled(part: Any, values: list[object]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(part, dict):
        return {_filled(key, values): _filled(value, values) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(item, values) for item in part]
    if isinstance(part, str) and part.startswith(_SIGN):
        return _plain(values[int(part[1:])])
    return part


def _plain(value: object) -> object:
    """A copy in JSON's own types."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TypeError(f"a template cannot hold {type(value).__name__} values")
