"""docs/telemetry.md with the table of metrics: what `telemetry` holds, as lines of a table between two comments."""

from __future__ import annotations

import re
from pathlib import Path

from vllm_operator.telemetry import METRICS, Metric

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "telemetry.md"
_BLOCK = re.compile(r"(<!-- metrics -->\n).*?(<!-- end of metrics -->\n)", re.DOTALL)
_HEAD = "| metric | type | labels | what it says |\n|---|---|---|---|\n"


def _line(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.full_name}` | {metric.type} | {labels} | {metric.help} |\n"


def telemetry_page() -> str:
    """The text as it should be."""
    table = _HEAD + "".join(map(_line, METRICS))
    return _BLOCK.sub(lambda block: f"{block[1]}{table}{block[2]}", _PAGE.read_text())
