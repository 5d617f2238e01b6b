"""What one pass saw, reduced to what the status speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vllm_operator.naming import controller_of
from vllm_operator.plan.remedies import remedy
from vllm_operator.plan.types import Plan
from vllm_operator.report import TRANSIENT, Failed, Fetched, Report, ReportError, parse_report


@dataclass(frozen=True, slots=True)
class ChildError:
    """A child that could not be applied. `final` errors do not heal by waiting."""

    what: str
    reason: str
    message: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where a Deployment stands: counts of pods, and what its controller says."""

    exists: bool = False
    current: bool = False  # its controller has seen the latest spec
    wanted: int = 0
    existing: int = 0
    updated: int = 0
    ready: int = 0
    available: int = 0
    failure: str = ""  # message of ReplicaFailure
    deadline_exceeded: str = ""  # message of Progressing=False/ProgressDeadlineExceeded

    @property
    def tried(self) -> bool:
        """Whether there are pods of the latest template: what others say is out of date."""
        return self.current and self.updated > 0

    @property
    def complete(self) -> bool:
        """Whether every replica runs the latest template and is available, and no old one is left."""
        counts = (self.updated, self.existing, self.available)
        return self.exists and self.current and all(count == self.wanted for count in counts)


def _by_type(live: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {condition["type"]: condition for condition in (live.get("status") or {}).get("conditions") or ()}


def rollout_of(live: Mapping[str, Any] | None) -> Rollout:
    """The state of a live Deployment; all zero when there is none. What its controller said before an edit is past."""
    if not live:
        return Rollout()
    status = live.get("status") or {}
    current = status.get("observedGeneration", 0) >= live["metadata"].get("generation", 0)
    conditions = _by_type(live) if current else {}
    progressing, failure = conditions.get("Progressing", {}), conditions.get("ReplicaFailure", {})
    exceeded = progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded"
    return Rollout(
        exists=True,
        current=current,
        wanted=live.get("spec", {}).get("replicas", 1),
        existing=status.get("replicas") or 0,
        updated=status.get("updatedReplicas") or 0,
        ready=status.get("readyReplicas") or 0,
        available=status.get("availableReplicas") or 0,
        failure=failure.get("message", "") if failure.get("status") == "True" else "",
        deadline_exceeded=progressing.get("message", "") if exceeded else "",
    )


@dataclass(frozen=True, slots=True)
class Preload:
    """Where the preload Job stands."""

    exists: bool = False
    complete: bool = False
    failure: str = ""  # that ended the Job
    reason: str = "PreloadFailed"
    setback: str = ""  # of an attempt that is followed by another
    passing: bool = False  # whether such a failure passes by itself
    progress: str = ""


def is_finished(job: Mapping[str, Any]) -> bool:
    """Whether a Job will start no further pod."""
    return _end(job) is not None


def finished_at(job: Mapping[str, Any]) -> str:
    """When a Job has ended, as RFC 3339 has it; empty while it has not, or does not say."""
    return str((_end(job) or {}).get("lastTransitionTime", ""))


def _end(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    ends = (_by_type(job).get(kind) for kind in ("Complete", "Failed"))
    return next((end for end in ends if end and end.get("status") == "True"), None)


def lacks_pods(job: Mapping[str, Any]) -> bool:
    """Whether a Job has begun and no pod of it was ever made."""
    status = job.get("status") or {}
    counts = (status.get(name) for name in ("active", "succeeded", "failed"))
    return bool(status.get("startTime")) and not is_finished(job) and not any(counts)


def preload_of(live: Mapping[str, Any] | None, outcome: Outcome | None = None, progress: str = "") -> Preload:
    """The state of a live Job; what its pod reported says it better than the Job's own conditions, and sooner."""
    if not live:
        return Preload()
    conditions = _by_type(live)
    complete = conditions.get("Complete", {}).get("status") == "True" or bool(outcome and outcome.succeeded)
    failed = conditions.get("Failed", {})
    ended = failed.get("status") == "True" and not complete
    failure = (failed.get("message") or "the Job failed") if ended else ""
    seen = Preload(exists=True, complete=complete, failure=failure, progress=progress)
    said = outcome.failure if outcome and not complete else None
    if said is None:
        return seen
    return replace(
        seen,
        reason=said.reason.value,
        failure=remedy(said) if ended else "",
        setback="" if ended else remedy(said),
        passing=said.reason in TRANSIENT,
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pod of one of our Jobs ended: of which (its uid), when it was made, and what it said at the end."""

    job: str
    created: str
    succeeded: bool
    report: str = ""
    lost: bool = False  # the Job has ended and its pods are gone: nobody knows what they said

    @property
    def tells(self) -> bool:
        """Whether it left a report."""
        return self._read() is not None

    @property
    def failure(self) -> Failed | None:
        """Why it failed, if it said so."""
        report = self._read()
        return report if isinstance(report, Failed) else None

    @property
    def commit(self) -> str:
        """The commit of the files that it brought; empty when it did not say."""
        report = self._read()
        return report.commit if isinstance(report, Fetched) else ""

    def _read(self) -> Report | None:
        try:
            return parse_report(self.report)
        except ReportError:
            return None


def outcome_of(pod: Mapping[str, Any]) -> Outcome | None:
    """How the pod of a Job ended; None while it runs. Of several containers the one that failed speaks, or the last."""
    status = pod.get("status") or {}
    if status.get("phase") not in ("Succeeded", "Failed"):
        return None
    metadata = pod["metadata"]
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    ends = [(container.get("state") or {}).get("terminated") or {} for container in containers]
    failed = next((end for end in ends if end.get("exitCode")), None)
    return Outcome(
        job=str((controller_of(metadata) or {}).get("uid", "")),
        created=metadata.get("creationTimestamp") or "",
        succeeded=status["phase"] == "Succeeded",
        report=(failed or (ends[-1] if ends else {})).get("message") or "",
    )


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the autoscaler says of itself: the first thing that keeps it from working, or nothing."""

    exists: bool = False
    problem: str = ""
    reason: str = ""


def scaling_of(live: Mapping[str, Any] | None) -> Scaling:
    """The state of a live HorizontalPodAutoscaler; one that has not spoken yet is a problem too."""
    if not live:
        return Scaling()
    conditions = _by_type(live)
    if not conditions:
        return Scaling(exists=True, problem="the autoscaler has not looked at it yet", reason="Pending")
    for kind in ("AbleToScale", "ScalingActive"):
        found = conditions.get(kind)
        if found and found["status"] != "True":
            reason = "MetricsUnavailable" if "Metric" in found.get("reason", "") else found.get("reason", kind)
            return Scaling(exists=True, problem=found.get("message", ""), reason=reason)
    return Scaling(exists=True)


def runs(pod: Mapping[str, Any], container: str) -> bool:
    """Whether a container of a pod runs."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return any(one.get("name") == container and "running" in (one.get("state") or {}) for one in statuses)


def ready_address(pod: Mapping[str, Any]) -> str:
    """IP address of a pod that is ready; empty for any other."""
    ready = _by_type(pod).get("Ready", {}).get("status") == "True"
    return ((pod.get("status") or {}).get("podIP") or "") if ready else ""


@dataclass(frozen=True, slots=True)
class PodTrouble:
    """Why a pod does not serve: one word, sentences that say what to do, and whether waiting will not help."""

    reason: str
    message: str
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that the status of one resource is made from."""

    plan: Plan
    rollout: Rollout = Rollout()
    preload: Preload = Preload()
    scaling: Scaling = Scaling()
    claim_phase: str = ""
    trouble: PodTrouble | None = None  # of a server pod
    preload_trouble: PodTrouble | None = None  # of the preload Job's pod
    inspect_trouble: PodTrouble | None = None  # of the pod of the Job that looks at the model
    withheld: bool = False  # the servers wait for the cache
    kept: bool = False  # the servers run the pod template of an earlier release of the operator
    errors: tuple[ChildError, ...] = ()
    notes: tuple[str, ...] = ()  # extras that the cluster cannot hold
    metrics: str = ""  # a page of a server's metrics, empty when none was read
