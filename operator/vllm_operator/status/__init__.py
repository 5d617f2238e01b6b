"""What is true of a resource: a pure function of its plan and of what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_operator.api.status import ConditionType, Phase
from vllm_operator.engine.profiles import filled
from vllm_operator.errors import InvalidSpec
from vllm_operator.naming import as_selector, selector
from vllm_operator.plan.network import endpoint
from vllm_operator.plan.types import Plan
from vllm_operator.sizing.measured import drift
from vllm_operator.sizing.measured import parse as parse_metrics
from vllm_operator.sizing.types import Sizing
from vllm_operator.status.conditions import Finding, findings
from vllm_operator.status.notices import notices
from vllm_operator.status.observation import Observation

__all__ = ["Observation", "held_up_status", "make_status", "notices", "refused_status"]


def make_status(seen: Observation, previous: dict[str, Any], now: str) -> dict[str, Any]:
    """The status as it is applied; equal to `previous` when nothing changed. `now` is an RFC 3339 time."""
    plan = seen.plan
    generation = plan.resource.generation
    found = findings(seen)
    old = {condition["type"]: condition for condition in previous.get("conditions", ())}
    name, namespace = plan.resource.name, plan.resource.namespace
    address = endpoint(plan.resource.spec, name, namespace)
    measured = _measured(seen, previous)
    status = {
        "observedGeneration": generation,
        "phase": _phase(seen, found).value,
        "conditions": [_condition(finding, old.get(finding.type), generation, now) for finding in found],
        "url": address,
        "endpoint": f"{address}/v1",
        "replicas": seen.rollout.existing,
        "readyReplicas": seen.rollout.ready,
        "selector": as_selector(selector(name)),
        "engine": _engine(plan),
        "model": _model(plan),
        "sizing": _sizing(plan.sizing, measured) if plan.sizing else None,
        **(_as_kept(plan, measured, previous) if seen.kept else {}),
    }
    return {key: value for key, value in status.items() if value is not None}


def _as_kept(plan: Plan, measured: dict[str, Any] | None, previous: Mapping[str, Any]) -> dict[str, Any]:
    """What runs as the release said that planned it; this one might plan it in another way."""
    told = {key: previous[key] for key in ("engine", "model", "sizing") if key in previous}
    if "model" in told and (inspected := _inspected(plan)):
        told["model"] = {**told["model"], "inspected": inspected}
    if measured and "sizing" in told:
        told["sizing"] = {**told["sizing"], "measured": measured}
    return {**told, "engine": {**(told.get("engine") or _engine(plan)), "outdated": True}}


def refused_status(body: Mapping[str, Any], error: InvalidSpec, now: str) -> dict[str, Any]:
    """The status of a resource whose spec cannot even be read: one that is older than a rule of the schema."""
    generation = body["metadata"].get("generation", 1)
    old = {condition["type"]: condition for condition in (body.get("status") or {}).get("conditions", ())}
    found = [
        Finding(ConditionType.ACCEPTED, "False", error.reason, str(error)),
        Finding(ConditionType.READY, "False", error.reason, str(error)),
        Finding(ConditionType.RECONCILING, "False", "Stalled", "waiting will not help"),
        Finding(ConditionType.STALLED, "True", error.reason, str(error)),
    ]
    return {
        "observedGeneration": generation,
        "phase": Phase.REFUSED.value,
        "conditions": [_condition(finding, old.get(finding.type), generation, now) for finding in found],
    }


def held_up_status(body: Mapping[str, Any], reason: str, message: str, now: str) -> dict[str, Any]:
    """The status of a resource that could not be looked at: what was said stays, and whether it still holds is open."""
    generation, previous = body["metadata"].get("generation", 1), body.get("status") or {}
    old = {condition["type"]: condition for condition in previous.get("conditions", ())}
    found = [
        Finding(ConditionType.READY, "Unknown", reason, message),
        Finding(ConditionType.RECONCILING, "True", reason, message),
        Finding(ConditionType.STALLED, "False", "Progressing"),
    ]
    told = {finding.type.value: _condition(finding, old.get(finding.type), generation, now) for finding in found}
    return {
        **previous,
        "observedGeneration": generation,
        "phase": (Phase.UPDATING if previous.get("readyReplicas") else Phase.PENDING).value,
        "conditions": [*(one for kind, one in old.items() if kind not in told), *told.values()],
    }


def _condition(finding: Finding, old: dict[str, Any] | None, generation: int, now: str) -> dict[str, Any]:
    """A transition is a change of `status` alone."""
    kept = old is not None and old["status"] == finding.status
    return {
        "type": finding.type.value,
        "status": finding.status,
        "reason": finding.reason,
        "message": finding.message,
        "observedGeneration": generation,
        "lastTransitionTime": old["lastTransitionTime"] if kept and old else now,
    }


def _engine(plan: Plan) -> dict[str, Any]:
    spec = plan.resource.spec
    status = {"version": plan.engine_version, "args": list(plan.arguments)}
    # An own server gets none of the settings.
    return status if spec.engine.command else {**status, "fromProfile": list(filled(spec))}


def _model(plan: Plan) -> dict[str, Any] | None:
    model = plan.model
    if model is None:
        return None
    sizing = plan.sizing
    status = {
        "name": model.name,
        "commit": plan.commit,
        "architecture": getattr(model.facts, "architecture", ""),
        "weights": f"{plan.weights_gib:.2f}Gi" if plan.weights_gib else "",
        "maxLength": sizing.max_length if sizing else None,
        "inspected": _inspected(plan),
    }
    return {key: value for key, value in status.items() if value not in (None, "")}


def _inspected(plan: Plan) -> dict[str, str] | None:
    """What the inspect Job reported, so that it need not run again; nothing while it has not succeeded or given up."""
    found = plan.inspection
    return {"source": found.source, "report": found.text} if found and plan.waiting is None else None


def _measured(seen: Observation, previous: Mapping[str, Any]) -> dict[str, Any] | None:
    """What vLLM reports of its KV cache; an earlier report holds while the servers are started the same way."""
    measured = parse_metrics(seen.metrics)
    if measured is None:
        same = seen.kept or (previous.get("engine") or {}).get("args") == list(seen.plan.arguments)
        return (previous.get("sizing") or {}).get("measured") if same else None
    band = seen.plan.sizing.kv_tokens if seen.plan.sizing and not seen.kept else None
    status = {
        "kvTokens": measured.kv_tokens,
        "maxConcurrency": measured.max_concurrency,
        "driftPercent": drift(measured, band).percent if band else None,
    }
    return {key: value for key, value in status.items() if value is not None}


def _sizing(sizing: Sizing, measured: dict[str, Any] | None) -> dict[str, Any]:
    status = {
        "gpu": sizing.gpu.product if sizing.gpu else None,
        "gpusPerReplica": sizing.gpus,
        "tensorParallel": sizing.tensor,
        "pipelineParallel": sizing.pipeline,
        "nodes": sizing.nodes,
        "verdict": sizing.verdict.value,
        "explanation": sizing.explanation[:4096],
        "predicted": _prediction(sizing),
        "measured": measured,
    }
    return {key: value for key, value in status.items() if value is not None}


def _prediction(sizing: Sizing) -> dict[str, Any] | None:
    if sizing.per_gpu is None:
        return None
    memory, tokens = sizing.per_gpu, sizing.kv_tokens
    figures = {
        "weightsGiB": round(memory.weights, 2),
        "kvCacheGiBLow": round(memory.kv_cache.low, 2),
        "kvCacheGiBHigh": round(memory.kv_cache.high, 2),
        "kvTokensLow": int(tokens.low) if tokens else None,
        "kvTokensHigh": int(tokens.high) if tokens else None,
        "maxConcurrency": round(sizing.max_concurrency, 2) if sizing.max_concurrency is not None else None,
    }
    return {key: value for key, value in figures.items() if value is not None}


def _phase(seen: Observation, found: list[Finding]) -> Phase:
    """One word for the whole, from the conditions alone."""
    by_type = {finding.type: finding for finding in found}
    ready, stalled = by_type[ConditionType.READY], by_type[ConditionType.STALLED]
    if ready.status == "True":
        return {"Suspended": Phase.SUSPENDED, "Idle": Phase.IDLE}.get(ready.reason, Phase.READY)
    if seen.plan.refusal:
        return Phase.REFUSED
    if stalled.status == "True":
        return Phase.DEGRADED
    if seen.withheld:
        return Phase.PRELOADING
    if seen.rollout.ready > 0:
        return Phase.UPDATING
    return Phase.STARTING if seen.rollout.exists else Phase.PENDING
