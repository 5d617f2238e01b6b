"""docs/status.md with the table of failures: what `failures.yaml` holds, as lines of a table between two comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vllm_operator.engine.diagnosis import failures

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "status.md"
_BLOCK = re.compile(r"(<!-- failures -->\n).*?(<!-- end of failures -->\n)", re.DOTALL)
_HEAD = "| reason | ends in | what happened, and what to do |\n|---|---|---|\n"


def _lines() -> Iterator[str]:
    for failure in failures():
        if failure.reason:
            ends = "stalls" if failure.stalled else "waits"
            sentences = re.sub(r"\{(\w+)\}", r"*\1*", f"{failure.what} {failure.remedy}").replace("*successors*", "")
            yield f"| `{failure.reason}` | {ends} | {sentences.replace('|', '/')} |\n"


def status_page() -> str:
    """The text as it should be."""
    table = _HEAD + "".join(dict.fromkeys(_lines()))
    return _BLOCK.sub(lambda block: f"{block[1]}{table}{block[2]}", _PAGE.read_text())
