"""Resources to try: the samples that users read, and those that must be refused (`bad/`).

A bad resource begins with comments: `rejected-by` (api: the API server; condition: the operator), `field`, `says` (what
a user must read) and, for a condition, its `reason`. The reason Rejected is the API server's word on a child.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

Document = dict[str, Any]

BAD = Path(__file__).parent / "bad"
SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
PREREQUISITES = SAMPLES / "prerequisites" / "prerequisites.yaml"


@dataclass(frozen=True, slots=True)
class Bad:
    """A resource that must be refused; `rejected_by` is `api` or `condition`."""

    name: str
    document: Document
    rejected_by: Literal["api", "condition"]
    says: str
    field: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A resource that must be accepted, and the comment above it."""

    name: str
    document: Document
    comment: str


def bad_resources(rejected_by: Literal["api", "condition"]) -> list[Bad]:
    """Every bad resource that is rejected there, by name."""
    return [bad for bad in map(_bad, sorted(BAD.glob("*.yaml"))) if bad.rejected_by == rejected_by]


def samples() -> list[Sample]:
    """Every sample, by name."""
    return [
        Sample(path.stem, yaml.load(path.read_text(), yaml.CSafeLoader), _comment(path.read_text()))
        for path in sorted(SAMPLES.glob("*.yaml"))
    ]


def _comment(text: str) -> str:
    return "\n".join(re.findall(r"^# ?(.*)$", text, re.MULTILINE))


def _bad(path: Path) -> Bad:
    text = path.read_text()
    head = dict(re.findall(r"^# ([a-z-]+): (.+)$", text, re.MULTILINE))
    rejected_by = head.pop("rejected-by")
    if rejected_by not in ("api", "condition"):
        raise ValueError(f"{path.name}: rejected-by must be api or condition")
    verdict = cast("Literal['api', 'condition']", rejected_by)
    return Bad(path.stem, yaml.load(text, yaml.CSafeLoader), verdict, **head)
