"""Why servers do not run, told from what a real API server holds of their pods, and how it heals.

The nodes have no kubelet that could hand out a log: the operator does with the pods' status and their Events.
"""

from __future__ import annotations

from typing import Any

import pytest

from cluster.support.api import Api, Manifest
from cluster.support.fixtures import Create
from cluster.support.service import Service
from localcluster.cluster import Cluster
from localcluster.wait import wait_for
from operator_process import USER, OperatorProcess
from vllm_operator import kinds

BAD_FLAG = "vllm serve: error: unrecognized arguments: --frobnicate --hf-token hf_abcdefghijkl"
SETTLE_SECONDS = 90.0  # a pod's Events are asked for when it is half a minute old


def failing(**how: str) -> dict[str, Any]:
    """A merge patch of the spec: containers fail, with `exit_code`, `reason` and `termination_message`."""
    said = {f"localcluster.test/{key.replace('_', '-')}": value for key, value in how.items()}
    return {"podTemplate": {"metadata": {"annotations": {"localcluster.test/fail": "true", **said}}}}


HEALED: dict[str, Any] = {"podTemplate": None}
NEVER_STARTED = {"podTemplate": {"metadata": {"annotations": {"localcluster.test/ready-after": "1h"}}}}


def _ready_message(service: Service) -> str:
    return str(service.condition("Ready")["message"])


def _placed(service: Service) -> list[Manifest]:
    return [one for one in service.pods() if one["spec"].get("nodeName")]


ENDS = {
    "out of memory": (failing(exit_code="137", reason="OOMKilled"), "OOMKilled", "its memory limit of "),
    "a success that is a crash": (failing(exit_code="0", reason="Completed"), "EngineCrashed", "exit code 0"),
    "an unknown end": (
        failing(exit_code="3", termination_message="KeyError: 7"),
        "StartupFailed",
        'log: "KeyError: 7"',
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_a_container_ended_is_told(create: Create, unharmed: OperatorProcess, name: str) -> None:
    assert unharmed.alive
    spec, reason, words = ENDS[name]
    service = create("web", spec)
    service.wait("Ready", "False", reason)
    assert service.says("Available", "False", reason)
    assert words in _ready_message(service)
    service.edit(HEALED)
    service.wait_ready()
    assert service.says("Stalled", "False")


def test_a_bad_flag_stalls_is_told_without_keys_and_heals(create: Create, unharmed: OperatorProcess) -> None:
    assert unharmed.alive
    service = create("web", failing(exit_code="2", termination_message=BAD_FLAG))
    service.wait("Stalled", "True", "InvalidArguments")
    assert service.status["phase"] == "Degraded"
    message = _ready_message(service)
    assert "--frobnicate" in message
    assert "spec.engine.extraArgs" in message
    assert "abcdefghijkl" not in str(service.status)
    told = wait_for(lambda: service.events("InvalidArguments"), message="an Event")
    assert {one["message"] for one in told} == {message[:1021] + "..." if len(message) > 1024 else message}
    service.edit(HEALED)
    service.wait_ready()
    assert service.status["phase"] == "Ready"


def test_an_edit_is_not_judged_by_the_pods_of_before(create: Create, api: Api, namespace: str) -> None:
    """From the edit on no status of its generation says that it stalled, or tools would give it up."""
    service = create("web", failing(exit_code="2", termination_message=BAD_FLAG))
    service.wait("Stalled", "True", "InvalidArguments")
    since = service.body["metadata"]["resourceVersion"]
    service.edit(HEALED)
    service.wait_ready()
    states = api.history(kinds.RESOURCE, namespace, "web", since)
    generation = states[-1]["metadata"]["generation"]
    conditions = [one for state in states for one in state["status"]["conditions"] if one["type"] == "Stalled"]
    assert {one["status"] for one in conditions if one["observedGeneration"] == generation} == {"False"}


def test_the_old_one_serves_while_the_new_one_fails(create: Create) -> None:
    service = create("web", {"replicas": 2}).wait_ready()
    service.edit(failing(exit_code="1", termination_message="ValueError: No available memory for the cache blocks."))
    service.wait("Ready", "False", "NoKVCacheMemory")
    assert service.says("Available", "True")
    service.wait("Stalled", "True", "NoKVCacheMemory")
    assert service.says("Available", "True")
    service.edit(HEALED)
    service.wait_ready()


def test_the_status_rests_while_a_container_crashes_on(create: Create, api: Api, namespace: str) -> None:
    service = create("web", failing(exit_code="2", termination_message=BAD_FLAG))
    service.wait("Stalled", "True", "InvalidArguments")
    version = service.body["metadata"]["resourceVersion"]

    begun = _restarts(service)
    wait_for(lambda: _restarts(service) >= min(begun + 3, 10), message="three more restarts")
    assert api.get(kinds.RESOURCE, namespace, "web")["metadata"]["resourceVersion"] == version  # type: ignore[index]


def test_a_log_is_asked_for_once_per_restart(create: Create, cluster: Cluster) -> None:
    if not isinstance(cluster, Cluster):
        pytest.skip("needs the audit log of the local control plane; run without CLUSTER=kind")
    mark = cluster.audit_mark()
    service = create("web", failing(exit_code="1"))
    service.wait("Ready", "False", "StartupFailed")
    (pod,) = service.pods()
    wait_for(lambda: _restarts(service) >= 10, message="the end of the crash loop")
    uri = f"/pods/{pod['metadata']['name']}/log"
    ended = [event for event in cluster.audit_events(USER, mark) if event.raw["stage"] == "ResponseComplete"]
    asked = [event.uri for event in ended if uri in event.uri]
    assert 1 <= len(asked) <= 10
    assert all("tailLines=400" in one and "previous=true" in one for one in asked)


def _restarts(service: Service) -> int:
    return max((pod["status"]["containerStatuses"][0]["restartCount"] for pod in service.pods()), default=0)


def test_unschedulable_says_what_is_asked_for(create: Create) -> None:
    service = create("web", {"gpu": {"count": 1, "product": "NVIDIA-Made-Up", "memory": "47Gi"}})
    service.wait("Ready", "False", "Unschedulable")
    message = _ready_message(service)
    assert "No node carries the labels that the pod asks for (nvidia.com/gpu.product=NVIDIA-Made-Up)." in message
    assert "didn't match Pod's node affinity/selector" in message
    assert "preemption" not in message


MISSING_CLAIMS: dict[str, dict[str, Any]] = {
    "of the cache": {"cache": {"ephemeral": None, "claimName": "nowhere", "preload": False}},
    "of the model, which a Job looks at first": {
        "model": {"source": "pvc://nowhere/model", "revision": None},
        "cache": None,
    },
}


@pytest.mark.parametrize("whose", MISSING_CLAIMS)
def test_missing_claim_is_named(create: Create, whose: str) -> None:
    service = create("web", MISSING_CLAIMS[whose])
    service.wait("Ready", "False", "Unschedulable")
    assert "The pod needs the claim nowhere, which does not exist" in _ready_message(service)


def test_a_volume_that_does_not_come_is_told_from_events(create: Create, api: Api, namespace: str) -> None:
    service = create("web", NEVER_STARTED)
    (pod,) = wait_for(lambda: _placed(service), message="a pod on a node")
    about = {key: pod["metadata"][key] for key in ("name", "namespace", "uid")}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "mount"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", **about},
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "env" : configmap "env" not found',
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    api.create(event, namespace)
    found = service.wait("Ready", "False", "FailedMount", SETTLE_SECONDS)
    assert "the configmap env," in found["message"]
    service.edit(HEALED)
    service.wait_ready()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"reason": "InvalidImageName", "message": 'could not parse image reference "A:::b"'}, "InvalidImageName"),
        ({"reason": "ErrImagePull", "message": "none.test/a:v9: not found"}, "ImagePullBackOff"),
        ({"reason": "CreateContainerConfigError", "message": 'secret "key" not found'}, "CreateContainerConfigError"),
    ],
)
def test_what_the_kubelet_says_of_a_container(
    create: Create, api: Api, namespace: str, state: dict[str, str], reason: str
) -> None:
    service = create("web", NEVER_STARTED)
    (pod,) = wait_for(lambda: _placed(service), message="a pod on a node")
    waiting = {
        "name": "vllm",
        "image": "a",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": state},
    }
    api.merge(kinds.POD, namespace, pod["metadata"]["name"], {"status": {"containerStatuses": [waiting]}}, "status")
    service.wait("Ready", "False", reason)
    assert service.says("Stalled", "True" if reason == "InvalidImageName" else "False")
    service.edit(HEALED)
    service.wait_ready()
