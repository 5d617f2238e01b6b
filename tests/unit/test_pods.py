"""What a pod's status shows, what is remembered of it, and which pod speaks for all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podstatus import KEY, RUNNING, START, Object, container, crash, ended, pod, unplaced
from vllm_operator.engine.diagnosis import diagnose
from vllm_operator.naming import Key
from vllm_operator.pods import Pods
from vllm_operator.status.pods import Stage, symptom_of, warnings_of


def reason_of(body: Object) -> str:
    symptom = symptom_of(body)
    found = diagnose(symptom.evidence()) if symptom else None
    return found.reason if found else ""


def message_of(body: Object) -> str:
    symptom = symptom_of(body)
    found = diagnose(symptom.evidence()) if symptom else None
    assert found is not None
    return found.message


# --- one pod


HEALTHY = {
    "nothing known": {"metadata": {"name": "x"}},
    "running": pod(RUNNING, phase="Running"),
    "loading": pod(container("running"), phase="Running"),
    "going": pod(container("waiting", reason="ErrImagePull"), metadata={"deletionTimestamp": START}),
    "done": pod(container("terminated", **ended(0, "Completed")), phase="Succeeded"),
    "recovered": pod(container("running", ready=True, restarts=3, last=ended(1)), phase="Running"),
    "not on a node yet": {**pod(), "spec": {}},
    "a Job's pod that failed tells why itself": pod(
        container("terminated", **ended(1)), kind="Job", phase="Failed", component="preload"
    ),
    "a Job's container that is started again": pod(
        container("waiting", reason="CrashLoopBackOff", last=ended(1)), kind="Job", component="preload"
    ),
    "a first end that nobody has settled": pod(container("terminated", **ended(1)), phase="Running"),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_pod_without_trouble(name: str) -> None:
    assert symptom_of(HEALTHY[name]) is None


# What the node controller leaves: the containers are as the kubelet last saw them.
CUT_OFF = [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "False"}]

TROUBLES = {
    "out of memory": (crash(code=137, reason="OOMKilled"), "OOMKilled", "its memory limit of 24Gi"),
    "out of memory in a Job": (
        pod(container("terminated", **ended(137, "OOMKilled")), kind="Job", phase="Failed"), "OOMKilled", "24Gi",
    ),
    "a success that is a crash": (crash(code=0, reason="Completed"), "EngineCrashed", "exit code 0"),
    "refused arguments": (crash(code=2), "InvalidArguments", "exit code 2"),
    "shell without the command": (crash(code=127), "StartError", "does not exist in its image"),
    "a segmentation fault": (crash(code=139), "EngineCrashed", "signal"),
    "a kill": (crash(code=137), "Killed", "ended from outside"),
    "anything else": (crash(code=3), "StartupFailed", "exit code 3"),
    "the last words tell": (
        crash(message="ValueError: No available memory for the cache blocks. Try"), "NoKVCacheMemory", "No available",
    ),
    "the command is missing": (
        crash(code=128, reason="StartError", message='exec: "vllm": executable file not found in $PATH'),
        "StartError", "executable file not found",
    ),
    "between two starts": (
        pod(container("running", restarts=2, last=ended(137, "OOMKilled")), phase="Running"), "OOMKilled", "24Gi",
    ),
    "ended again a moment ago": (
        pod(container("terminated", restarts=2, last=ended(137, "OOMKilled"), **ended(1))), "OOMKilled", "24Gi",
    ),
    "too long in starting": (
        pod(container("running", restarts=1, last=ended(137, until="2026-01-01T00:31:30Z"))),
        "StartupTimeout", "within 1800 s",
    ),
    "image name": (
        pod(container("waiting", reason="InvalidImageName", message='couldn\'t parse image reference "A:::b"')),
        "InvalidImageName", "A:::b",
    ),
    "image not found": (
        pod(container("waiting", reason="ErrImagePull", message='failed to resolve "none.test/a:v9": not found')),
        "ImagePullBackOff", "The image vllm/vllm-openai:v0.32.0 does not exist.",
    ),
    "image not found, later": (
        pod(container("waiting", reason="ImagePullBackOff", message=(
            'Back-off pulling image "none.test/a:v9": ErrImagePull: failed to resolve "none.test/a:v9": not found'))),
        "ImagePullBackOff", "The image vllm/vllm-openai:v0.32.0 does not exist.",
    ),
    "image refused": (
        pod(container("waiting", reason="ErrImagePull", message="pull access denied")),
        "ImagePullBackOff", "imagePullSecrets",
    ),
    "secret missing": (
        pod(container("waiting", reason="CreateContainerConfigError", message='secret "api-key" not found')),
        "CreateContainerConfigError", "the secret api-key,",
    ),
    "nobody knows why": (
        pod(container("waiting", reason="CrashLoopBackOff", message="back-off 5m0s restarting")), "CrashLoopBackOff",
        "Container vllm does not start. The Events of the pod may say more.",
    ),
    "Kubernetes' own words": (
        pod(container("waiting", reason="PostStartHookError", message="exit 1")), "PostStartHookError", "exit 1",
    ),
    "no GPU free": (
        unplaced("0/9 nodes are available: 3 Insufficient nvidia.com/gpu, 6 node(s) didn't match Pod's node "
                 "affinity/selector. no new claims to deallocate, "
                 "preemption: 0/9 nodes are available: 9 No preemption victims found."),
        "Unschedulable", "No node has 2 nvidia.com/gpu free.",
    ),
    "no such node": (
        unplaced("0/9 nodes are available: 9 node(s) didn't match Pod's node affinity/selector."),
        "Unschedulable", "(nvidia.com/gpu.product=NVIDIA-L4)",
    ),
    "tainted nodes": (
        unplaced("0/9 nodes are available: 9 node(s) had untolerated taint {team: ml}."), "Unschedulable", "toleration",
    ),
    "control plane among others": (
        unplaced("0/9 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
                 "8 node(s) didn't match Pod's node affinity/selector."),
        "Unschedulable", "carries the labels",
    ),
    "no such claim": (
        unplaced('0/9 nodes are available: persistentvolumeclaim "models" not found.'), "Unschedulable", "claim models",
    ),
    "volume elsewhere": (
        unplaced("0/9 nodes are available: 1 node(s) had volume node affinity conflict, 8 Insufficient nvidia.com/gpu"),
        "Unschedulable", "ReadWriteMany claim",
    ),
    "evicted": (
        pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."), "Evicted", "low on",
    ),
    "node does not answer": (
        pod(container("running", ready=True), phase="Running", conditions=CUT_OFF),
        "NodeNotReady", "node node-1 does not",
    ),
    "no device": (
        pod(phase="Failed", reason="UnexpectedAdmissionError", message="no healthy devices"),
        "AdmissionFailed", "no healthy",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLES)
def test_a_pod_in_trouble(name: str) -> None:
    body, reason, words = TROUBLES[name]
    assert reason_of(body) == reason
    assert words in message_of(body)


def test_the_words_are_the_same_in_every_pass() -> None:
    """No counters, no back-off, no restarts: what is told changes only when something happened."""
    waiting = crash(3, code=137, reason="OOMKilled")
    running = pod(container("running", restarts=3, last=ended(137, "OOMKilled")), phase="Running")
    assert symptom_of(waiting) == symptom_of(running)
    assert message_of(crash(7, code=137, reason="OOMKilled")) == message_of(waiting)
    unscheduled = message_of(TROUBLES["no GPU free"][0])
    assert "preemption" not in unscheduled
    assert "deallocate" not in unscheduled
    early, late = TROUBLES["image not found"][0], TROUBLES["image not found, later"][0]
    assert message_of(early) == message_of(late)


def test_a_container_that_runs_on_for_long_was_not_ended_in_starting() -> None:
    late = pod(container("running", restarts=1, last=ended(137, until="2026-01-02T00:00:00Z")))
    assert reason_of(late) == "Killed"


def test_a_pod_that_is_being_created() -> None:
    for body in (pod(), pod(container("waiting", reason="ContainerCreating"))):
        found = symptom_of(body)
        assert found is not None
        assert found.stage is Stage.CREATING
        assert diagnose(found.evidence()) is None


def test_what_events_tell() -> None:
    def event(reason: str, when: str, kind: str = "Warning", message: str = "m") -> Object:
        return {"type": kind, "reason": reason, "message": message, "lastTimestamp": when}

    events = [
        event("Pulled", "3", "Normal"),
        event("FailedMount", "1", message='MountVolume.SetUp failed for volume "env" : configmap "env" not found'),
        event("Killing", "2", "Normal", "Container vllm failed startup probe, will be restarted"),
        {"type": "Warning", "reason": None, "eventTime": "0"},
    ]
    found = warnings_of(events)
    assert [line.partition(":")[0] for line in found] == ["Killing", "FailedMount", ""]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
KEYS = ("state", "lastState", "waiting", "terminated", "reason", "message", "exitCode", "restartCount", "ready", "name")
STATUS = st.recursive(
    ANYTHING | st.sampled_from(["CrashLoopBackOff", "OOMKilled", "PodScheduled", "False", START]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=30,
)


@given(
    status=ANYTHING
    | st.fixed_dictionaries(
        {},
        optional={
            "phase": st.sampled_from(["Pending", "Running", "Failed", None, 1]),
            "reason": STATUS,
            "message": STATUS,
            "conditions": STATUS | st.lists(st.fixed_dictionaries({"type": st.just("PodScheduled"), "status": STATUS})),
            "containerStatuses": STATUS | st.lists(STATUS, max_size=2),
            "initContainerStatuses": STATUS | st.lists(STATUS, max_size=2),
        },
    ),
    spec=ANYTHING | st.fixed_dictionaries({"containers": STATUS, "nodeName": STATUS, "nodeSelector": STATUS}),
    owners=STATUS,
)
def test_no_shape_of_a_pod_breaks_it(status: object, spec: object, owners: object) -> None:
    body = {"metadata": {"name": "x", "namespace": "n", "ownerReferences": owners}, "spec": spec, "status": status}
    pods = Pods()
    pods.see(KEY, body)
    trouble = pods.trouble(KEY, "")
    assert trouble is None or trouble.message.isprintable()


@given(st.lists(ANYTHING | st.dictionaries(st.sampled_from(["type", "reason", "lastTimestamp"]), ANYTHING), max_size=3))
def test_no_shape_of_events_breaks_it(events: list[Any]) -> None:
    assert all(line.isprintable() for line in warnings_of(events))


# --- several pods


def spoken(pods: Pods) -> str:
    found = pods.trouble(KEY, "server")
    return found.reason if found else ""


def test_the_one_that_tells_most_speaks_and_then_the_first_by_name() -> None:
    pods = Pods()
    image = pod(container("waiting", reason="ErrImagePull"), name="chat-9")
    for body in (unplaced("0/9 nodes", name="chat-0"), image):
        assert pods.see(KEY, body)
    assert spoken(pods) == "ImagePullBackOff"
    assert pods.see(KEY, pod(container("waiting", reason="InvalidImageName"), name="chat-8"))
    assert spoken(pods) == "InvalidImageName"
    assert not pods.see(KEY, image), "no news"
    assert pods.see(KEY, pod(RUNNING, name="chat-8"))
    assert pods.see(KEY, image, gone=True)
    assert spoken(pods) == "Unschedulable"


def test_an_older_template_says_nothing_once_a_newer_one_has_pods() -> None:
    pods = Pods()
    old = pod(container("waiting", reason="ErrImagePull"), name="a-old")
    pods.see(KEY, old)
    assert spoken(pods) == "ImagePullBackOff"
    new = pod(container("running"), name="b-new", template="rs-2", created="2026-01-01T00:10:00Z")
    assert pods.see(KEY, new), "the answer changes"
    assert spoken(pods) == ""
    assert not pods.see(KEY, {**old, "status": {"phase": "Failed", "reason": "Evicted"}})
    again = pod(container("waiting", reason="ErrImagePull"), name="c", created="2026-01-01T00:20:00Z")
    assert pods.see(KEY, again)
    assert spoken(pods) == "ImagePullBackOff", "rolled back: the former template is the newest again"


def test_a_pod_of_the_same_name_starts_anew() -> None:
    pods = Pods()
    pods.see(KEY, pod(container("waiting", reason="InvalidImageName")))
    other = pod(container("running"), metadata={"uid": "another"})
    pods.see(KEY, other)
    assert spoken(pods) == ""


def test_what_is_gone_is_forgotten() -> None:
    pods = Pods()
    pods.see(KEY, pod(container("waiting", reason="ErrImagePull")))
    pods.see(Key("team-b", "chat"), pod(container("waiting", reason="ErrImagePull")))
    assert pods.all() == {("team-a", "chat-1"), ("team-b", "chat-1")}
    pods.drop([("team-a", "chat-1")])
    assert pods.all() == {("team-b", "chat-1")}
    pods.forget(Key("team-b", "chat"))
    assert pods.all() == set()
    assert not pods.see(KEY, pod(RUNNING), gone=True), "never seen"


def test_a_readiness_gate_is_no_lost_node() -> None:
    body = pod(container("running", ready=True), phase="Running", conditions=CUT_OFF)
    gate = {"conditionType": "target-health.elbv2.k8s.aws/chat"}
    assert symptom_of({**body, "spec": {**body["spec"], "readinessGates": [gate]}}) is None
