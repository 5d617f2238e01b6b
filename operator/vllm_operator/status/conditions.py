"""The conditions, one function each.

Rules of kstatus (sigs.k8s.io/cli-utils, pkg/kstatus): `Ready` from first sight; `Reconciling` and `Stalled` are true
only when something is not as it should be; `Stalled` means that waiting will not help.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_operator.api.status import ConditionType
from vllm_operator.plan.cache import has_cache, preloads
from vllm_operator.plan.types import Plan
from vllm_operator.sizing.types import ParameterCount
from vllm_operator.status.observation import Observation, PodTrouble

MAX_MESSAGE = 4096
AGAIN = " (tried again every 5 minutes, and at once when the Job is deleted)"


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without its times."""

    type: ConditionType
    status: str
    reason: str
    message: str = ""


def _yes(kind: ConditionType, reason: str, message: str = "") -> Finding:
    return Finding(kind, "True", reason, message[:MAX_MESSAGE])


def _no(kind: ConditionType, reason: str, message: str = "") -> Finding:
    return Finding(kind, "False", reason, message[:MAX_MESSAGE])


def findings(seen: Observation) -> list[Finding]:
    """Every condition that applies, in the order in which a resource goes through them."""
    plan = seen.plan
    found = [_accepted(seen), _model_resolved(plan), _sized(plan)]
    if plan.refusal is None and plan.waiting is None:
        found += [_cache_ready(seen), _available(seen), _scaling_ready(seen)]
    elif seen.rollout.exists:
        found.append(_available(seen))  # what was accepted before goes on serving
    ready = _ready(seen)
    return [finding for finding in (*found, ready, *_kstatus(seen, ready)) if finding]


def _refused(plan: Plan, kind: ConditionType) -> Finding | None:
    refusal = plan.refusal
    if refusal and refusal.condition == kind.value:
        return _no(kind, refusal.reason, refusal.message)
    return None


def _accepted(seen: Observation) -> Finding:
    plan = seen.plan
    warnings = "; ".join([*(f"{warning.reason}: {warning.message}" for warning in plan.warnings), *seen.notes])
    accepted = _yes(ConditionType.ACCEPTED, "Accepted", warnings)
    return _refused(plan, ConditionType.ACCEPTED) or accepted


def _model_resolved(plan: Plan) -> Finding | None:
    if refused := _refused(plan, ConditionType.MODEL_RESOLVED):
        return refused
    if plan.waiting:
        return _no(ConditionType.MODEL_RESOLVED, plan.waiting.reason, plan.waiting.message)
    if plan.model is None:
        return None
    facts = plan.model.facts
    if facts is None:
        return _no(ConditionType.MODEL_RESOLVED, "UnknownModel", "nothing is known of the model's size")
    reason = "Estimated" if isinstance(facts, ParameterCount) else "Resolved"
    return _yes(ConditionType.MODEL_RESOLVED, reason, f"known from {plan.model.known_from}")


def _sized(plan: Plan) -> Finding | None:
    if refused := _refused(plan, ConditionType.SIZED):
        return refused
    if plan.sizing is None:
        return None
    return _yes(ConditionType.SIZED, plan.sizing.verdict.value, plan.sizing.explanation)


def _cache_ready(seen: Observation) -> Finding | None:
    spec, kind = seen.plan.resource.spec, ConditionType.CACHE_READY
    if not has_cache(spec):
        return None
    if seen.plan.storage_problem:
        return _no(kind, "StorageChangeBlocked", seen.plan.storage_problem)
    if not preloads(spec):
        return _yes(kind, "NoPreload", "the first server downloads the model")
    if seen.preload.complete or seen.plan.held:
        return _yes(kind, "Preloaded", "the model is in the cache")
    return _no(kind, *_preload_progress(seen))


def _preload_progress(seen: Observation) -> tuple[str, str]:
    if seen.preload.failure:
        return seen.preload.reason, f"{seen.preload.failure}{AGAIN}"
    if seen.claim_phase == "Pending":
        return "ClaimPending", _unbound(seen)
    if seen.plan.resource.spec.suspend:
        return "Suspended", "the download waits until the resource is resumed"
    if trouble := seen.preload_trouble:
        return trouble.reason, f"the preload Job's pod does not start: {trouble.message}"
    if seen.preload.setback:
        return seen.preload.reason, f"{seen.preload.setback} (the Job tries again)"
    return "Preloading", seen.preload.progress or "the preload Job downloads the model"


def _unbound(seen: Observation) -> str:
    """That the claim of the cache has no volume yet, and what to do where that lasts."""
    cache = seen.plan.resource.spec.cache
    of = f"storage class {cache.storage_class_name!r}" if cache.storage_class_name else "the default storage class"
    way_out = f"{of} must exist and serve {cache.access_mode}; to change it, edit spec.cache and delete the claim"
    return f"the cache claim is not bound: {way_out}"


def _available(seen: Observation) -> Finding:
    kind, rollout = ConditionType.AVAILABLE, seen.rollout
    if rollout.exists and rollout.wanted == 0:
        return _no(kind, _rest(seen), "there are no replicas, as asked")
    if rollout.available > 0:
        return _yes(kind, "Available", f"{rollout.available} of {rollout.wanted} replicas are available")
    if trouble := _trouble(seen):
        return _no(kind, trouble.reason, trouble.message)
    return _no(kind, "Preloading" if seen.withheld else "Starting", _progress(seen))


def _scaling_ready(seen: Observation) -> Finding | None:
    spec, scaling = seen.plan.resource.spec, seen.scaling
    if spec.autoscaling is None or spec.suspend:
        return None
    if not scaling.exists:
        return _no(ConditionType.SCALING_READY, "Pending", "there is no autoscaler yet")
    if scaling.problem:
        return _no(ConditionType.SCALING_READY, scaling.reason, scaling.problem)
    return _yes(ConditionType.SCALING_READY, "Scaling", "the autoscaler follows its metrics")


def _rest(seen: Observation) -> str:
    return "Suspended" if seen.plan.resource.spec.suspend else "Idle"


def _progress(seen: Observation) -> str:
    rollout = seen.rollout
    if seen.withheld:
        return "the servers wait until the model is in the cache"
    if not rollout.exists:
        return "the Deployment is not there yet"
    return f"{rollout.updated} of {rollout.wanted} replicas are up to date, {rollout.available} available"


def _standstill(plan: Plan) -> tuple[str, str] | None:
    """Why there is no plan to carry out, and none to be had by waiting."""
    if plan.refusal:
        return plan.refusal.reason, plan.refusal.message
    waiting = plan.waiting
    return (waiting.reason, f"{waiting.message}{AGAIN}") if waiting and waiting.final else None


def pod_trouble(seen: Observation) -> PodTrouble | None:
    """What keeps the pods from starting that matter now: the servers', or those of the Jobs that servers wait for."""
    if seen.plan.waiting:
        return None if seen.plan.waiting.final else seen.inspect_trouble
    if seen.rollout.complete and not seen.withheld:
        return None
    return seen.preload_trouble if seen.withheld else _trouble(seen)


def _trouble(seen: Observation) -> PodTrouble | None:
    """The servers' trouble, unless only pods of an older template can have told it."""
    return seen.trouble if seen.rollout.tried else None


def obstacle(seen: Observation) -> tuple[str, str, bool] | None:
    """What keeps it from being ready beside the ordinary course: reason, message, and whether waiting helps."""
    if standstill := _standstill(seen.plan):
        return (*standstill, False)
    if seen.errors:
        worst = next((error for error in seen.errors if error.final), seen.errors[0])
        others = f" (and {len(seen.errors) - 1} more)" if len(seen.errors) > 1 else ""
        return worst.reason, f"{worst.what}: {worst.message}{others}", not worst.final
    if seen.preload.failure and seen.withheld:
        return seen.preload.reason, f"{seen.preload.failure}{AGAIN}", seen.preload.passing
    return _rollout_obstacle(seen)


_NOT_READY = " (its pods run and do not become ready: does GET /health on port 8000 answer? see their logs)"


def _rollout_obstacle(seen: Observation) -> tuple[str, str, bool] | None:
    """As `obstacle`, of pods that exist or cannot be made."""
    trouble, rollout = pod_trouble(seen), seen.rollout
    if trouble and trouble.stalled:
        return trouble.reason, trouble.message, False
    if rollout.deadline_exceeded:
        why = f"{trouble.reason}: {trouble.message}" if trouble else f"{rollout.deadline_exceeded}{_NOT_READY}"
        return "ProgressDeadlineExceeded", why, False
    if rollout.failure:
        reason = "QuotaExceeded" if "exceeded quota" in rollout.failure else "ReplicaFailure"
        return reason, rollout.failure, True
    return None


def _ready(seen: Observation) -> Finding:
    kind = ConditionType.READY
    if found := obstacle(seen):
        return _no(kind, found[0], found[1])
    if waiting := seen.plan.waiting:
        trouble = pod_trouble(seen)
        said = f"the pod that looks at the model does not start: {trouble.message}" if trouble else waiting.message
        return _no(kind, trouble.reason if trouble else waiting.reason, said)
    if seen.withheld:
        return _no(kind, *_preload_progress(seen))
    if not seen.rollout.complete:
        trouble = _trouble(seen)
        reason = trouble.reason if trouble else "Updating" if seen.rollout.available else "Starting"
        return _no(kind, reason, trouble.message if trouble else _progress(seen))
    if seen.rollout.wanted == 0:
        return _yes(kind, _rest(seen), "there are no replicas, as asked")
    serving = "1 replica serves" if seen.rollout.wanted == 1 else f"{seen.rollout.wanted} replicas serve"
    return _yes(kind, "Available", serving)


def _kstatus(seen: Observation, ready: Finding) -> tuple[Finding, Finding]:
    found = obstacle(seen)
    if found is not None and not found[2]:
        moving = _no(ConditionType.RECONCILING, "Stalled", "waiting will not help")
        return moving, _yes(ConditionType.STALLED, ready.reason, ready.message)
    rest = _no(ConditionType.STALLED, "Progressing")
    if ready.status == "True":
        return _no(ConditionType.RECONCILING, "Settled"), rest
    return _yes(ConditionType.RECONCILING, ready.reason, ready.message), rest
