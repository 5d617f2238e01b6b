"""docs/configuration.md with the table of settings: what `config` holds, as lines of a table between two comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vllm_operator.config import FILE, PREFIX, OperatorConfig, rules

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
_BLOCK = re.compile(r"(<!-- settings -->\n).*?(<!-- end of settings -->\n)", re.DOTALL)
_HEAD = "| in the file | flag, variable | default | rule | what it says |\n|---|---|---|---|---|\n"


def _lines() -> Iterator[str]:
    defaults = OperatorConfig()
    for rule in rules():
        default = getattr(defaults, rule.name)
        shown = "" if default in (None, ()) else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        name = "" if rule.name == FILE else f"`{rule.name}`"
        source = f"`{rule.flag}` `{PREFIX}{rule.name.upper()}`"
        yield f"| {name} | {source} | {shown} | {rule.rule} | {rule.help} |\n"


def configuration_page() -> str:
    """The text as it should be."""
    table = _HEAD + "".join(_lines())
    return _BLOCK.sub(lambda block: f"{block[1]}{table}{block[2]}", _PAGE.read_text())
