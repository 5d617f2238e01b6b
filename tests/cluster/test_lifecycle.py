"""From the first download to the end: what a resource says of itself while it changes, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.support.api import NAMESPACE, Api, Manifest
from cluster.support.fixtures import Create
from cluster.support.owned import content
from cluster.support.service import CACHED, HOLD, Service, manifest, ready_pods
from localcluster import nodes, pods
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from operator_process import USER, OperatorProcess
from vllm_operator import kinds
from vllm_operator.naming import controller_of

HELD = {"podTemplate": {"metadata": {"annotations": {HOLD: "true"}}}}
OTHER_MODEL = {"model": {"source": "hf://Qwen/Qwen2.5-3B-Instruct"}}
GONE_SECONDS = 5.0  # for a resource without a finalizer
END_SECONDS = 60.0


def _uids(objects: list[Manifest]) -> set[str]:
    return {one["metadata"]["uid"] for one in objects}


@contextmanager
def _held_preload(kubectl: Kubectl, namespace: str) -> Iterator[None]:
    """Keep the pods of preload Jobs that are created meanwhile from getting anywhere."""
    with pods.annotate(kubectl, namespace, {HOLD: "true"}, {"app.kubernetes.io/component": "preload"}):
        yield


def _await_preload_pod(service: Service) -> None:
    wait_for(lambda: service.pods("preload"), message="a pod of the preload Job")


def _complaints(operator: OperatorProcess, mark: int, namespace: str) -> list[str]:
    """What the operator logged about a namespace that sounds like trouble."""
    lines = operator.tail(mark, lines=10_000).splitlines()
    return [line for line in lines if namespace in line and ("WARNING" in line or "ERROR" in line)]


# --- rollouts


def test_ready_follows_the_rollout(create: Create) -> None:
    service = create("web", {"replicas": 2}).wait_ready()
    old = _uids(service.pods())
    service.edit({"engine": {"image": "registry.example/vllm-openai-cpu:v0.32.0"}} | HELD)
    service.wait("Ready", "False", "Updating")
    wait_for(lambda: _uids(service.pods()) - old, message="a new pod")
    assert service.says("Available", "True")
    assert service.says("Reconciling", "True")
    assert service.status["phase"] == "Updating"
    assert _uids(ready_pods(service.pods())) < old, "an old one serves, a new one does not yet"

    def rolled_out() -> bool:
        service.release_pods()
        return service.says("Ready", "True")

    wait_for(rolled_out, message="both replaced")
    assert _uids(service.pods()) & old == set()
    assert service.container["image"] == "registry.example/vllm-openai-cpu:v0.32.0"
    assert service.says("Reconciling", "False")


def test_ready_goes_with_the_pods(create: Create, api: Api, namespace: str) -> None:
    service = create("web", {"replicas": 2}).wait_ready()
    name = service.pods()[0]["metadata"]["name"]
    api.merge(kinds.POD, namespace, name, {"metadata": {"annotations": {HOLD: "true"}}})
    service.wait("Ready", "False", "Updating")
    assert service.status["readyReplicas"] == 1
    service.release_pods()
    service.wait_ready()


def test_crash_loop_is_said_with_its_cause(create: Create, api: Api, namespace: str) -> None:
    service = create("web").wait_ready()
    failing = {"localcluster.test/fail": "true", "localcluster.test/reason": "OOMKilled"}
    name = service.pods()[0]["metadata"]["name"]
    api.merge(kinds.POD, namespace, name, {"metadata": {"annotations": failing}})
    found = service.wait("Available", "False", "OOMKilled")
    assert "memory limit" in found["message"]
    assert service.says("Ready", "False", "OOMKilled")
    api.merge(kinds.POD, namespace, name, {"metadata": {"annotations": dict.fromkeys(failing)}})
    service.wait_ready()


def test_unschedulable_gpu_is_said_in_the_schedulers_words(create: Create, cluster: ClusterAccess) -> None:
    service = create("web", {"gpu": {"count": 1, "product": "NVIDIA-Made-Up", "memory": "47Gi"}})
    found = service.wait("Available", "False", "Unschedulable")
    assert "didn't match Pod's node affinity/selector" in found["message"]
    assert service.says("Ready", "False", "Unschedulable")
    assert service.says("Reconciling", "True")
    (node,) = nodes.gpu_nodes("NVIDIA-L4", gpus=1, nodes=1, prefix="made-up")
    node["metadata"]["labels"] |= {"nvidia.com/gpu.product": "NVIDIA-Made-Up", "nvidia.com/gpu.memory": "49140"}
    cluster.add_nodes([node])
    try:
        service.wait_ready()
    finally:
        cluster.remove_nodes([node])


def test_refused_change_leaves_what_runs(create: Create) -> None:
    service = create("web", {"gpu": {"count": 1, "product": "NVIDIA-L4"}}).wait_ready()
    before, old = service.children(), _uids(service.pods())
    service.edit({"model": {"source": "hf://meta-llama/Llama-3.1-70B-Instruct"}})
    found = service.wait("Sized", "False")
    assert "nearest fit" in found["message"]
    assert service.says("Ready", "False", found["reason"])
    assert service.says("Stalled", "True")
    assert service.status["phase"] == "Refused"
    assert [content(one) for one in service.children()] == [content(one) for one in before]
    assert _uids(ready_pods(service.pods())) == old
    service.edit({"model": {"source": manifest("web")["spec"]["model"]["source"]}})
    service.wait_ready()
    assert _uids(service.pods()) == old


# --- downloads


def test_servers_wait_for_the_download(create: Create, kubectl: Kubectl, namespace: str) -> None:
    with _held_preload(kubectl, namespace):
        service = create("web", CACHED)
        _await_preload_pod(service)
    service.wait("Ready", "False", "Preloading")
    assert service.says("CacheReady", "False", "Preloading")
    assert service.status["phase"] == "Preloading"
    assert service.child(kinds.DEPLOYMENT) is None
    service.release_pods("preload")
    service.wait_ready()
    assert service.says("CacheReady", "True", "Preloaded")


def test_failed_download_is_said_and_a_new_job_heals_it(create: Create, kubectl: Kubectl, namespace: str) -> None:
    with _held_preload(kubectl, namespace):
        service = create("web", CACHED)
        _await_preload_pod(service)
    (job,) = service.jobs()
    name = job["metadata"]["name"]
    # As good as a failure of its own, and the Job's own back-off would take ten minutes.
    service.api.merge(kinds.JOB, namespace, name, {"spec": {"activeDeadlineSeconds": 1}})
    service.wait("CacheReady", "False", "PreloadFailed")
    found = service.wait("Ready", "False", "PreloadFailed")
    assert "deadline" in found["message"]
    assert service.says("Stalled", "True", "PreloadFailed")
    assert service.status["phase"] == "Degraded"
    assert service.child(kinds.DEPLOYMENT) is None
    wait_for(lambda: service.events("PreloadFailed"), message="an Event")
    service.api.delete(kinds.JOB, namespace, name)
    service.release_until_ready()
    assert service.says("Stalled", "False")


def test_other_model_waits_for_its_download_while_the_old_one_serves(
    create: Create, kubectl: Kubectl, namespace: str
) -> None:
    service = create("web", CACHED).wait_ready()
    (first,), old, before = service.jobs(), _uids(service.pods()), service.container
    with _held_preload(kubectl, namespace):
        service.edit(OTHER_MODEL)
        service.wait("Ready", "False", "Preloading")
        wait_for(lambda: _uids(service.jobs()) - _uids([first]), message="another Job")
        _await_preload_pod(service)
    wait_for(lambda: len(service.jobs()) == 1, message="the Job of the old model is gone")
    assert service.says("Available", "True")
    assert service.container == before
    assert _uids(ready_pods(service.pods())) == old
    service.release_pods("preload")
    service.wait_ready()
    assert "Qwen/Qwen2.5-3B-Instruct" in service.container["args"]
    assert _uids(service.pods()) & old == set()


def test_pause_during_a_download_frees_what_runs(create: Create, kubectl: Kubectl, namespace: str) -> None:
    service = create("web", CACHED).wait_ready()
    with _held_preload(kubectl, namespace):
        service.edit(OTHER_MODEL)
        service.wait("Ready", "False", "Preloading")
        service.edit({"suspend": True})
        service.wait_ready(reason="Suspended")
    wait_for(lambda: service.pods() == [], message="no pods")
    service.edit({"suspend": False})
    service.release_until_ready()
    assert service.says("CacheReady", "True", "Preloaded")


# --- the end


@pytest.mark.parametrize("policy", ["Background", "Foreground"])
def test_deleted_resource_leaves_nothing_but_its_claim(policy: str, create: Create) -> None:
    service = create("web", CACHED, {"autoscaling": {"maxReplicas": 2}}).wait_ready()
    service.delete(policy)
    service.await_left("PersistentVolumeClaim")
    wait_for(lambda: service.pods() == [], message="no pods")


def test_orphaned_children_are_taken_up_again(create: Create) -> None:
    service = create("web", CACHED).wait_ready()
    before, old = _uids(service.children()), _uids(service.pods())
    service.delete("Orphan")
    wait_for(lambda: service.gone, message="the resource is gone")
    assert _uids(service.children()) == before
    again = create("web", CACHED).wait_ready()
    assert _uids(again.children()) == before
    assert _uids(again.pods()) == old
    owner = controller_of(again.deployment["metadata"])
    assert owner is not None
    assert owner["uid"] == again.uid


def test_resource_that_is_replaced_at_once(create: Create, kubectl: Kubectl, namespace: str) -> None:
    service = create("web", CACHED).wait_ready()
    before = service.uid
    kubectl("replace", "--force", "--filename=-", input=manifest("web", CACHED, {"replicas": 2}))
    again = Service(service.api, namespace, "web")
    again.wait_ready(timeout=90)
    assert again.uid != before
    owners = [controller_of(one["metadata"]) for one in again.children()]
    assert {owner["uid"] for owner in owners if owner} == {again.uid}
    assert again.replicas == 2


def test_deletion_needs_no_operator(create: Create, operator: OperatorProcess) -> None:
    service = create("web", CACHED, {"cache": {"reclaimPolicy": "Delete"}}).wait_ready()
    kept = create("kept", CACHED).wait_ready()
    assert service.body["metadata"].get("finalizers") is None
    assert operator.stop() == 0
    for one in (service, kept):
        one.delete()
        wait_for(lambda one=one: one.gone, GONE_SECONDS, f"{one} is gone")  # type: ignore[misc]
    service.await_left()
    kept.await_left("PersistentVolumeClaim")
    mark = operator.mark()
    operator.start()
    operator.wait_ready()
    create("other").wait_ready()  # it works again, and had time to bring back what it should not
    assert service.gone
    assert service.children() == []
    assert [one["kind"] for one in kept.children()] == ["PersistentVolumeClaim"]
    assert _complaints(operator, mark, service.namespace) == []


def test_a_namespace_ends_without_an_operator(
    create: Create, api: Api, namespace: str, operator: OperatorProcess
) -> None:
    for service in (create("plain"), create("cached", CACHED)):
        service.wait_ready()
    assert operator.stop() == 0
    api.delete(NAMESPACE, "", namespace)
    wait_for(lambda: api.get(NAMESPACE, None, namespace) is None, END_SECONDS, "the namespace is gone")
    mark = operator.mark()
    operator.start()
    operator.wait_ready()
    assert _complaints(operator, mark, namespace) == []


def test_namespace_ends_with_resources_in_it(
    create: Create, api: Api, namespace: str, operator: OperatorProcess, local_cluster: Cluster
) -> None:
    services = [create("plain"), create("cached", CACHED), create("scaled", {"autoscaling": {"maxReplicas": 2}})]
    for service in services:
        service.wait_ready()
    mark, audit = operator.mark(), local_cluster.audit_mark()
    api.delete(NAMESPACE, "", namespace)
    wait_for(lambda: api.get(NAMESPACE, None, namespace) is None, END_SECONDS, "the namespace is gone")
    refused = [
        event
        for event in local_cluster.audit_events(USER, audit)
        if event.is_write and event.namespace == namespace and event.code >= 400
    ]
    assert len(refused) < len(services) * len(kinds.CHILDREN), [event.uri for event in refused]
    assert operator.alive
    assert _complaints(operator, mark, namespace) == []
