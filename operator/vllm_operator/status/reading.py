"""What a status says, read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def ready_of(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Ready condition; empty where there is none."""
    found = (one for one in status.get("conditions") or () if one["type"] == "Ready")
    return next(found, {})


def becomes_ready(status: Mapping[str, Any], previous: Mapping[str, Any]) -> bool:
    """Whether a status says for the first time, or once more, that all is ready."""
    return ready_of(status).get("status") == "True" and ready_of(previous).get("status") != "True"


def is_edited(body: Mapping[str, Any]) -> bool:
    """Whether the status of a live resource speaks of an earlier spec."""
    said = (body.get("status") or {}).get("observedGeneration")
    return said is not None and said != body["metadata"]["generation"]
