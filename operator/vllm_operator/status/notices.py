"""What a user should notice: the Events of one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vllm_operator.sizing.measured import drift, parse
from vllm_operator.status.conditions import obstacle, pod_trouble
from vllm_operator.status.observation import Observation
from vllm_operator.status.reading import becomes_ready, ready_of

UNSCHEDULABLE = "Unschedulable"


@dataclass(frozen=True, slots=True)
class Notice:
    """One Event: whether it is a warning, one word for machines, a sentence for people."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def notices(seen: Observation, previous: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Notice]:
    """Events for a status that has just changed from `previous`; whoever records them drops those told before."""
    plan = seen.plan
    for warning in plan.warnings:
        yield Notice("Warning", warning.reason, warning.message)
    if plan.storage_problem:
        yield Notice("Warning", "StorageChangeBlocked", plan.storage_problem)
    for error in seen.errors:
        yield Notice("Warning", error.reason, f"{error.what}: {error.message}")
    if sentence := sizing_drift(seen):
        yield Notice("Warning", "SizingDrift", sentence)
    if (found := obstacle(seen)) and not seen.errors:
        yield Notice("Warning", found[0], found[1])
    elif (trouble := pod_trouble(seen)) and trouble.reason != UNSCHEDULABLE:  # the scheduler writes Events of its own
        yield Notice("Warning", trouble.reason, trouble.message)
    elif becomes_ready(status, previous):
        yield Notice("Normal", "Ready", ready_of(status)["message"])


def sizing_drift(seen: Observation) -> str:
    """A sentence when vLLM reports a KV cache outside the predicted band; empty otherwise."""
    measured, sizing = parse(seen.metrics), seen.plan.sizing
    if measured is None or sizing is None or sizing.kv_tokens is None:
        return ""
    found = drift(measured, sizing.kv_tokens)
    return found.sentence if found.outside else ""
