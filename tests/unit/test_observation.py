"""What is read from live objects: Deployment, Job, autoscaler, pods."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_operator.status.observation import (
    Outcome,
    Preload,
    Rollout,
    Scaling,
    preload_of,
    rollout_of,
    scaling_of,
)


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def deployment(generation: int = 2, wanted: int | None = 3, **status: Any) -> dict[str, Any]:  # noqa: ANN401
    spec = {} if wanted is None else {"replicas": wanted}
    return {"metadata": {"generation": generation}, "spec": spec, "status": status}


FAILED = [
    condition("Progressing", "False", "ProgressDeadlineExceeded", "has timed out"),
    condition("ReplicaFailure", "True", "FailedCreate", "exceeded quota"),
]
COUNTS = {"replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3}


@pytest.mark.parametrize(
    ("live", "complete"),
    [
        (deployment(observedGeneration=2, **COUNTS), True),
        (deployment(observedGeneration=1, **COUNTS), False),
        (deployment(observedGeneration=2, **{**COUNTS, "updatedReplicas": 2}), False),
        (deployment(observedGeneration=2, **{**COUNTS, "replicas": 4}), False),
        (deployment(observedGeneration=2, **{**COUNTS, "availableReplicas": 2}), False),
        (deployment(wanted=0, observedGeneration=2), True),
        (deployment(wanted=None, observedGeneration=2, **dict.fromkeys(COUNTS, 1)), True),
        (deployment(), False),
        ({"metadata": {"generation": 1}, "spec": {"replicas": 1}}, False),
        (None, False),
    ],
)
def test_a_rollout_is_complete_as_kubectl_rollout_status_has_it(live: dict[str, Any] | None, complete: bool) -> None:  # noqa: FBT001
    assert rollout_of(live).complete is complete


def test_what_a_deployment_says_of_itself() -> None:
    found = rollout_of(deployment(observedGeneration=2, readyReplicas=1, conditions=FAILED))
    assert (found.wanted, found.existing, found.ready) == (3, 0, 1)
    assert (found.deadline_exceeded, found.failure) == ("has timed out", "exceeded quota")
    before_the_edit = rollout_of(deployment(observedGeneration=1, conditions=FAILED))
    assert (before_the_edit.deadline_exceeded, before_the_edit.failure) == ("", "")
    quiet = [
        condition("Progressing", "True", "NewReplicaSetAvailable", "x"),
        condition("ReplicaFailure", "False", "", "x"),
    ]
    found = rollout_of(deployment(observedGeneration=2, conditions=quiet))
    assert (found.deadline_exceeded, found.failure) == ("", "")
    assert rollout_of(None) == Rollout()


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], Preload(exists=True)),
        ([condition("Complete", "True")], Preload(exists=True, complete=True)),
        ([condition("Complete", "False"), condition("Suspended", "True")], Preload(exists=True)),
        ([condition("Failed", "True", message="404")], Preload(exists=True, failure="404")),
        ([condition("Failed", "True")], Preload(exists=True, failure="the Job failed")),
        ([condition("Failed", "False", message="404")], Preload(exists=True)),
    ],
)
def test_a_preload(conditions: list[dict[str, str]], expected: Preload) -> None:
    assert preload_of({"metadata": {}, "status": {"conditions": conditions}}) == expected
    assert preload_of(None) == Preload()
    assert preload_of({"metadata": {}}) == Preload(exists=True)


def test_a_preload_is_complete_once_its_pod_succeeded() -> None:
    """The Job itself says so a second or two later."""
    succeeded, failed = (Outcome("job-1", "2026-01-01T00:00:00Z", succeeded=ended) for ended in (True, False))
    live = {"metadata": {}, "status": {"active": 1}}
    assert preload_of(live, succeeded) == Preload(exists=True, complete=True)
    assert preload_of(live, failed) == Preload(exists=True)
    assert preload_of(None, succeeded) == Preload()
    too_late = {"metadata": {}, "status": {"conditions": [condition("Failed", "True", message="DeadlineExceeded")]}}
    assert preload_of(too_late, succeeded) == Preload(exists=True, complete=True)


ABLE, ACTIVE = condition("AbleToScale", "True"), condition("ScalingActive", "True")


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ([ABLE, ACTIVE], ""),
        ([ABLE, ACTIVE, condition("ScalingLimited", "True", "TooManyReplicas")], ""),
        ([], "Pending"),
        ([ABLE, condition("ScalingActive", "False", "FailedGetPodsMetric", "no metrics")], "MetricsUnavailable"),
        ([ABLE, condition("ScalingActive", "False", "ScalingDisabled", "at zero")], "ScalingDisabled"),
        ([condition("AbleToScale", "False", "FailedGetScale", "denied"), ACTIVE], "FailedGetScale"),
    ],
)
def test_an_autoscaler(conditions: list[dict[str, str]], reason: str) -> None:
    found = scaling_of({"status": {"conditions": conditions}})
    assert (found.exists, found.reason) == (True, reason)
    assert bool(found.problem) == bool(reason)
    assert scaling_of(None) == Scaling()
