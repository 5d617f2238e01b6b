"""The status in every situation that a resource goes through, and what kstatus makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from kstatus import kstatus
from planning import plan_of, spec_of
from vllm_operator.api.status import ConditionType, Status
from vllm_operator.api.strict import unknown_fields
from vllm_operator.errors import InvalidSpec, Problem
from vllm_operator.plan.types import Facts, LiveClaim
from vllm_operator.status import make_status, notices, refused_status
from vllm_operator.status.observation import (
    ChildError,
    Observation,
    PodTrouble,
    Preload,
    Rollout,
    Scaling,
)

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"

LOADED = Preload(exists=True, complete=True)
AUTOSCALED = spec_of(autoscaling={"maxReplicas": 4})
UNSCHEDULABLE = PodTrouble("Unschedulable", "0/9 nodes are available: 9 Insufficient nvidia.com/gpu.")
IMAGE_PULL = PodTrouble("ImagePullBackOff", 'vllm: Back-off pulling image "vllm/vllm-openai:v9"')
BAD_FLAG = PodTrouble("InvalidArguments", "The server does not know --frobnicate.", stalled=True)
CRASHED = PodTrouble("EngineCrashed", "The engine crashed while it served.")
NO_IMAGE_NAME = PodTrouble("InvalidImageName", "The image is no image reference.", stalled=True)
QUOTA = ChildError("PersistentVolumeClaim chat-cache", "QuotaExceeded", "exceeded quota: storage")
REJECTED = ChildError(
    "Deployment chat", "Rejected", "spec.template.spec.containers[1].image: Required value", final=True
)
NO_METRICS = Scaling(exists=True, problem="no metrics returned from custom metrics API", reason="MetricsUnavailable")


def running(wanted: int = 1, **changes: Any) -> Rollout:  # noqa: ANN401 - fields of Rollout
    counts = dict.fromkeys(("wanted", "existing", "updated", "ready", "available"), wanted)
    return Rollout(**{"exists": True, "current": True, **counts, **changes})


@dataclass(frozen=True)
class Situation:
    """What is seen, and what is to be said of it; `conditions` are those beside Ready, as `Status/Reason`."""

    phase: str
    ready: str
    kstatus: str
    conditions: dict[str, str] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=spec_of)
    facts: Facts | None = None
    seen: dict[str, Any] = field(default_factory=dict)


SITUATIONS = {
    "fresh": Situation(
        "Preloading", "False/Preloading", "InProgress",
        {"Accepted": "True/Accepted", "ModelResolved": "True/Resolved", "Sized": "True/Fits",
         "CacheReady": "False/Preloading", "Available": "False/Preloading"},
        seen={"withheld": True},
    ),
    "nothing could be made yet": Situation("Pending", "False/Starting", "InProgress", {"Available": "False/Starting"}),
    "preloading": Situation(
        "Preloading", "False/Preloading", "InProgress", {"CacheReady": "False/Preloading"},
        seen={"withheld": True, "preload": Preload(exists=True), "claim_phase": "Bound"},
    ),
    "claim pending": Situation(
        "Preloading", "False/ClaimPending", "InProgress", {"CacheReady": "False/ClaimPending"},
        seen={"withheld": True, "preload": Preload(exists=True), "claim_phase": "Pending"},
    ),
    "preload cannot pull its image": Situation(
        "Preloading", "False/ImagePullBackOff", "InProgress", {"CacheReady": "False/ImagePullBackOff"},
        seen={"withheld": True, "preload": Preload(exists=True), "preload_trouble": IMAGE_PULL},
    ),
    "preload failed": Situation(
        "Degraded", "False/PreloadFailed", "Failed", {"CacheReady": "False/PreloadFailed"},
        seen={"withheld": True, "preload": Preload(exists=True, failure="401 Client Error")},
    ),
    "preload of another model failed": Situation(
        "Degraded", "False/PreloadFailed", "Failed", {"Available": "True/Available"},
        seen={"withheld": True, "preload": Preload(exists=True, failure="404"), "rollout": running()},
    ),
    "starting": Situation(
        "Starting", "False/Starting", "InProgress", {"CacheReady": "True/Preloaded", "Available": "False/Starting"},
        seen={"preload": LOADED, "rollout": running(ready=0, available=0)},
    ),
    "unschedulable": Situation(
        "Starting", "False/Unschedulable", "InProgress", {"Available": "False/Unschedulable"},
        seen={"preload": LOADED, "rollout": running(ready=0, available=0), "trouble": UNSCHEDULABLE},
    ),
    "image pull": Situation(
        "Starting", "False/ImagePullBackOff", "InProgress", {"Available": "False/ImagePullBackOff"},
        seen={"preload": LOADED, "rollout": running(ready=0, available=0), "trouble": IMAGE_PULL},
    ),
    "ready": Situation(
        "Ready", "True/Available", "Current",
        {"CacheReady": "True/Preloaded", "Available": "True/Available", "Reconciling": "False/Settled",
         "Stalled": "False/Progressing"},
        seen={"preload": LOADED, "rollout": running()},
    ),
    "an old pod is left": Situation(
        "Updating", "False/Updating", "InProgress", {"Available": "True/Available"},
        spec=spec_of(replicas=2), seen={"preload": LOADED, "rollout": running(2, existing=3)},
    ),
    "updating": Situation(
        "Updating", "False/Updating", "InProgress", {"Available": "True/Available"},
        spec=spec_of(replicas=2), seen={"preload": LOADED, "rollout": running(2, updated=1)},
    ),
    "the controller has not looked yet": Situation(
        "Updating", "False/Updating", "InProgress", {"Available": "True/Available"},
        seen={"preload": LOADED, "rollout": running(current=False)},
    ),
    "updating, the new pod is unschedulable": Situation(
        "Updating", "False/Unschedulable", "InProgress", {"Available": "True/Available"},
        spec=spec_of(replicas=2),
        seen={"preload": LOADED, "rollout": running(2, updated=1, available=1), "trouble": UNSCHEDULABLE},
    ),
    "a server that can never start": Situation(
        "Degraded", "False/InvalidArguments", "Failed",
        {"Available": "False/InvalidArguments", "Stalled": "True/InvalidArguments", "Reconciling": "False/Stalled"},
        seen={"preload": LOADED, "rollout": running(ready=0, available=0), "trouble": BAD_FLAG},
    ),
    "the old one serves, the new one can never start": Situation(
        "Degraded", "False/InvalidArguments", "Failed",
        {"Available": "True/Available", "Stalled": "True/InvalidArguments"},
        spec=spec_of(replicas=2),
        seen={"preload": LOADED, "rollout": running(2, updated=1, available=1), "trouble": BAD_FLAG},
    ),
    "no longer than the deadline": Situation(
        "Degraded", "False/InvalidArguments", "Failed",
        seen={"preload": LOADED, "trouble": BAD_FLAG,
              "rollout": running(ready=0, available=0, deadline_exceeded="has timed out progressing")},
    ),
    "one of two has crashed": Situation(
        "Updating", "False/EngineCrashed", "InProgress",
        {"Available": "True/Available", "Stalled": "False/Progressing", "Reconciling": "True/EngineCrashed"},
        spec=spec_of(replicas=2),
        seen={"preload": LOADED, "rollout": running(2, ready=1, available=1), "trouble": CRASHED},
    ),
    "edited, and nobody has looked at the edit yet": Situation(
        "Starting", "False/Starting", "InProgress", {"Available": "False/Starting", "Stalled": "False/Progressing"},
        seen={"preload": LOADED, "rollout": running(ready=0, available=0, current=False), "trouble": BAD_FLAG},
    ),
    "edited, and no pod of the new template exists yet": Situation(
        "Starting", "False/Starting", "InProgress", {"Available": "False/Starting", "Stalled": "False/Progressing"},
        seen={"preload": LOADED, "rollout": running(updated=0, ready=0, available=0), "trouble": BAD_FLAG},
    ),
    "another model is downloaded while the servers of the former fail": Situation(
        "Preloading", "False/Preloading", "InProgress", {"Stalled": "False/Progressing"},
        seen={"withheld": True, "preload": Preload(exists=True), "rollout": running(ready=0, available=0),
              "trouble": BAD_FLAG},
    ),
    "the pod that looks at the model finds no node": Situation(
        "Pending", "False/Unschedulable", "InProgress",
        {"ModelResolved": "False/Inspecting", "Reconciling": "True/Unschedulable"},
        spec=spec_of(model={"source": "hf://acme/assistant"}), facts=Facts(inspects=True),
        seen={"inspect_trouble": UNSCHEDULABLE},
    ),
    "the preload Job's image has no name": Situation(
        "Degraded", "False/InvalidImageName", "Failed", {"CacheReady": "False/InvalidImageName"},
        seen={"withheld": True, "preload": Preload(exists=True), "preload_trouble": NO_IMAGE_NAME},
    ),
    "deadline exceeded": Situation(
        "Degraded", "False/ProgressDeadlineExceeded", "Failed", {"Available": "False/Unschedulable"},
        seen={"preload": LOADED, "trouble": UNSCHEDULABLE,
              "rollout": running(ready=0, available=0, deadline_exceeded="has timed out progressing")},
    ),
    "pods that run and are never ready": Situation(
        "Degraded", "False/ProgressDeadlineExceeded", "Failed", {"Available": "False/Starting"},
        seen={"preload": LOADED,
              "rollout": running(ready=0, available=0, deadline_exceeded="has timed out progressing")},
    ),
    "pods are refused": Situation(
        "Starting", "False/ReplicaFailure", "InProgress", {"Available": "False/Starting"},
        seen={"preload": LOADED, "rollout": running(existing=0, updated=0, ready=0, available=0, failure="quota")},
    ),
    "pods are beyond a quota": Situation(
        "Starting", "False/QuotaExceeded", "InProgress",
        seen={"preload": LOADED,
              "rollout": running(existing=0, updated=0, ready=0, available=0, failure="exceeded quota: pods")},
    ),
    "a download failed that no server waits for": Situation(
        "Ready", "True/Available", "Current", {"CacheReady": "False/PreloadFailed"},
        seen={"preload": Preload(exists=True, failure="404"), "rollout": running()},
    ),
    "idle": Situation(
        "Idle", "True/Idle", "Current", {"Available": "False/Idle"},
        spec=spec_of(replicas=0), seen={"preload": LOADED, "rollout": running(0)},
    ),
    "suspended": Situation(
        "Suspended", "True/Suspended", "Current", {"Available": "False/Suspended", "CacheReady": "True/Preloaded"},
        spec=spec_of(suspend=True), seen={"preload": LOADED, "rollout": running(0)},
    ),
    "suspended before the download": Situation(
        "Suspended", "True/Suspended", "Current", {"CacheReady": "False/Suspended"},
        spec=spec_of(suspend=True), seen={"preload": Preload(exists=True), "rollout": running(0)},
    ),
    "quota": Situation(
        "Pending", "False/QuotaExceeded", "InProgress", {"Accepted": "True/Accepted"}, seen={"errors": (QUOTA,)}
    ),
    "rejected by the API server": Situation(
        "Degraded", "False/Rejected", "Failed", {"Available": "True/Available"},
        seen={"preload": LOADED, "rollout": running(), "errors": (QUOTA, REJECTED)},
    ),
    "autoscaled": Situation(
        "Ready", "True/Available", "Current", {"ScalingReady": "True/Scaling"},
        spec=AUTOSCALED, seen={"preload": LOADED, "rollout": running(3), "scaling": Scaling(exists=True)},
    ),
    "autoscaler without metrics": Situation(
        "Ready", "True/Available", "Current", {"ScalingReady": "False/MetricsUnavailable"},
        spec=AUTOSCALED, seen={"preload": LOADED, "rollout": running(), "scaling": NO_METRICS},
    ),
    "autoscaler not there yet": Situation(
        "Ready", "True/Available", "Current", {"ScalingReady": "False/Pending"},
        spec=AUTOSCALED, seen={"preload": LOADED, "rollout": running()},
    ),
    "storage change blocked": Situation(
        "Ready", "True/Available", "Current", {"CacheReady": "False/StorageChangeBlocked"},
        spec=spec_of(cache={"storageClassName": "fast"}),
        facts=Facts(claim=LiveClaim("50Gi", "slow", "ReadWriteMany", bound=True)),
        seen={"preload": LOADED, "rollout": running()},
    ),
    "no cache": Situation(
        "Ready", "True/Available", "Current", spec=spec_of(cache={"ephemeral": True}), seen={"rollout": running()}
    ),
    "no preload": Situation(
        "Ready", "True/Available", "Current", {"CacheReady": "True/NoPreload"},
        spec=spec_of(cache={"preload": False}), seen={"rollout": running()},
    ),
    "refused for its arguments": Situation(
        "Refused", "False/InvalidArguments", "Failed",
        {"Accepted": "False/InvalidArguments", "Stalled": "True/InvalidArguments"},
        spec=spec_of(engine={"extraArgs": ["--port", "1"]}),
    ),
    "refused for its model": Situation(
        "Refused", "False/UnknownModel", "Failed", {"Accepted": "True/Accepted", "ModelResolved": "False/UnknownModel"},
        spec=spec_of(model={"source": "hf://acme/assistant"}),
    ),
    "refused for its size": Situation(
        "Refused", "False/WeightsExceedMemory", "Failed",
        {"Accepted": "True/Accepted", "ModelResolved": "True/Resolved", "Sized": "False/WeightsExceedMemory"},
        spec=spec_of(model={"source": "hf://Qwen/Qwen2.5-72B-Instruct"}, gpu={"product": "NVIDIA-L4", "count": 1}),
    ),
    "refused while the last good one runs": Situation(
        "Refused", "False/InvalidArguments", "Failed",
        {"Accepted": "False/InvalidArguments", "Available": "True/Available"},
        spec=spec_of(engine={"extraArgs": ["--port", "1"]}), seen={"preload": LOADED, "rollout": running()},
    ),
    "estimated": Situation(
        "Ready", "True/Available", "Current", {"ModelResolved": "True/Estimated", "Sized": "True/Estimated"},
        spec=spec_of(model={"source": "hf://acme/assistant-7b", "maxLength": 8192}),
        seen={"preload": LOADED, "rollout": running()},
    ),
    "nothing is known and nothing is asked": Situation(
        "Ready", "True/Available", "Current", {"ModelResolved": "False/UnknownModel", "Sized": "True/Skipped"},
        spec=spec_of(model={"source": "hf://acme/assistant"}, gpu={"count": 1}, sizing={"mode": "Off"}),
        seen={"preload": LOADED, "rollout": running()},
    ),
}  # fmt: skip


def observation(situation: Situation) -> Observation:
    return Observation(plan=plan_of(situation.spec, situation.facts), **situation.seen)


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {one["type"]: f"{one['status']}/{one['reason']}" for one in status["conditions"]}


def as_resource(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"metadata": {"name": "chat", "generation": 1, **metadata}, "spec": spec_of(), "status": status}


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_status_tells_the_truth(name: str) -> None:
    situation = SITUATIONS[name]
    status = make_status(observation(situation), {}, NOW)
    found = conditions(status)
    assert (status["phase"], found["Ready"]) == (situation.phase, situation.ready)
    assert found | situation.conditions == found
    assert kstatus(as_resource(status)) == situation.kstatus
    assert kstatus(as_resource(status, deletionTimestamp=NOW)) == "Terminating"
    assert kstatus(as_resource(status, generation=2)) == "InProgress"


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_status_is_well_formed(name: str) -> None:
    status = make_status(observation(SITUATIONS[name]), {}, NOW)
    assert unknown_fields(as_resource(status)) == ()
    parsed = Status.model_validate(status, by_alias=True, by_name=False)
    assert parsed.observed_generation == 1
    order = [kind.value for kind in ConditionType]
    types = [one.type for one in parsed.conditions]
    assert types == [kind for kind in order if kind in types], "in the order in which a resource goes through them"
    assert {"Accepted", "Ready", "Reconciling", "Stalled"} <= set(types)
    for one in parsed.conditions:
        assert one.reason[0].isupper()
        assert one.reason.isalnum(), "reasons are CamelCase words, as metav1.Condition demands"
        assert (one.observed_generation, one.last_transition_time) == (1, NOW)


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_second_look_at_the_same_changes_nothing(name: str) -> None:
    seen = observation(SITUATIONS[name])
    first = make_status(seen, {}, NOW)
    assert make_status(seen, first, LATER) == first


def test_exactly_one_of_ready_reconciling_and_stalled_is_true() -> None:
    for name, situation in SITUATIONS.items():
        found = conditions(make_status(observation(situation), {}, NOW))
        true = [kind for kind in ("Ready", "Reconciling", "Stalled") if found[kind].startswith("True")]
        assert len(true) == 1, name


def test_times_move_only_when_a_condition_flips() -> None:
    first = make_status(observation(SITUATIONS["starting"]), {}, NOW)
    second = make_status(observation(SITUATIONS["unschedulable"]), first, LATER)
    assert {one["lastTransitionTime"] for one in second["conditions"]} == {NOW}, "a reason is no transition"
    third = make_status(observation(SITUATIONS["ready"]), second, LATER)
    moved = {one["type"] for one in third["conditions"] if one["lastTransitionTime"] == LATER}
    assert moved == {"Available", "Ready", "Reconciling"}


def test_messages_say_what_stands_in_the_way() -> None:
    def ready(name: str) -> str:
        status = make_status(observation(SITUATIONS[name]), {}, NOW)
        return next(str(one["message"]) for one in status["conditions"] if one["type"] == "Ready")

    assert "Insufficient nvidia.com/gpu" in ready("deadline exceeded")
    assert "GET /health" in ready("pods that run and are never ready")
    assert ready("rejected by the API server").startswith("Deployment chat: spec.template")
    assert ready("rejected by the API server").endswith("(and 1 more)")
    assert ready("updating") == "1 of 2 replicas are up to date, 2 available"
    assert "401 Client Error" in ready("preload failed")
    assert "--port is set by the operator" in ready("refused for its arguments")
    assert "GiB" in ready("refused for its size")
    assert ready("ready") == "1 replica serves"


def test_warnings_and_notes_stand_with_acceptance() -> None:
    plan = plan_of(spec_of(model={"source": "hf://Qwen/Qwen3-8B", "trustRemoteCode": True, "maxLength": 4096}))
    status = make_status(Observation(plan, notes=("CRDNotInstalled: PodMonitor chat: install its CRD",)), {}, NOW)
    (accepted,) = (one for one in status["conditions"] if one["type"] == "Accepted")
    assert accepted["status"] == "True"
    assert accepted["message"].startswith("RemoteCode: ")
    assert accepted["message"].endswith("CRDNotInstalled: PodMonitor chat: install its CRD")


def test_long_messages_are_cut_to_what_the_schema_takes() -> None:
    error = ChildError("Deployment chat", "Rejected", "x" * 10_000, final=True)
    status = make_status(Observation(plan_of(spec_of()), errors=(error,)), {}, NOW)
    Status.model_validate(status, by_alias=True, by_name=False)


def test_the_rest_of_the_status() -> None:
    spec = spec_of(service={"port": 8080}, replicas=2, model={"source": "hf://Qwen/Qwen3-8B", "servedNames": ["q"]})
    plan = plan_of(spec, name="chat.v2")
    status = make_status(Observation(plan, preload=LOADED, rollout=running(2, ready=1)), {}, NOW)
    assert status["url"] == "http://chat-v2-93024ae74e.team-a.svc:8080"
    assert status["endpoint"] == f"{status['url']}/v1"
    assert (status["replicas"], status["readyReplicas"]) == (2, 1)
    engine = status["engine"]
    assert (engine["version"], engine["args"]) == ("0.32", list(plan.arguments))
    assert status["model"]["name"] == "q"
    assert status["model"]["architecture"] == "Qwen3ForCausalLM"
    sizing = status["sizing"]
    assert (sizing["gpu"], sizing["gpusPerReplica"], sizing["verdict"]) == ("NVIDIA-A100-SXM4-40GB", 1, "Fits")
    assert sizing["predicted"]["kvTokensLow"] <= sizing["predicted"]["kvTokensHigh"]
    labels = dict(pair.split("=") for pair in status["selector"].split(","))
    assert labels["app.kubernetes.io/instance"] == "chat-v2-93024ae74e"


def test_what_the_profile_filled_in_is_told() -> None:
    def filled(**fields: Any) -> object:  # noqa: ANN401 - fields of a spec
        return make_status(Observation(plan_of(spec_of(**fields))), {}, NOW)["engine"].get("fromProfile")

    gpu = {"product": "NVIDIA-A100-SXM4-40GB", "memoryUtilization": 0.8}
    latency = {"profile": "Latency", "maxSequences": 16}
    assert filled(engine=latency, gpu=gpu) == ["maxBatchedTokens=4096", "kvCacheDtype=auto"]
    assert filled(engine={"image": "ghcr.io/acme/chat:1.0", "command": ["serve"]}) is None


def test_only_a_full_hash_is_a_commit() -> None:
    def commit(revision: str) -> object:
        spec = spec_of(model={"source": "hf://Qwen/Qwen3-8B", "maxLength": 4096, "revision": revision})
        return make_status(Observation(plan_of(spec)), {}, NOW)["model"].get("commit")

    assert commit("main") is None
    assert commit("0e9e39f249a16976918f6564b8830bc894c89659") == "0e9e39f249a16976918f6564b8830bc894c89659"


def test_a_spec_that_cannot_be_read() -> None:
    error = InvalidSpec((Problem("spec.replicas", "must be of type integer"),))
    body = as_resource({}, generation=7)
    status = refused_status(body, error, NOW)
    assert conditions(status) == {
        "Accepted": "False/InvalidSpec",
        "Ready": "False/InvalidSpec",
        "Reconciling": "False/Stalled",
        "Stalled": "True/InvalidSpec",
    }
    assert (status["phase"], status["observedGeneration"]) == ("Refused", 7)
    assert kstatus({**body, "status": status}) == "Failed"
    assert refused_status({**body, "status": status}, error, LATER) == status


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a server that can never start", ["Warning InvalidArguments"]),
        ("one of two has crashed", ["Warning EngineCrashed"]),
        ("unschedulable", []),  # the scheduler writes Events of its own, and this may pass within a second
        ("preload cannot pull its image", ["Warning ImagePullBackOff"]),
        ("edited, and nobody has looked at the edit yet", []),
        ("updating", []),
        ("ready", ["Normal Ready"]),
    ],
)
def test_trouble_is_an_event(name: str, expected: list[str]) -> None:
    seen = observation(SITUATIONS[name])
    found = notices(seen, {}, make_status(seen, {}, NOW))
    assert [f"{one.kind} {one.reason}" for one in found] == expected
