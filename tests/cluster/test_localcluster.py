"""The harness itself: what the tests stand on must be real and must leave nothing behind."""

import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from localcluster import nodes, pods
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.errors import LocalClusterError
from localcluster.fixtures import NamespaceFactory
from localcluster.kubectl import Kubectl, KubectlError
from localcluster.wait import wait_for

HOLD = "localcluster.test/hold"
FAIL = "localcluster.test/fail"
OWN = "localcluster.test/own"
CONTAINER = {"name": "main", "image": "registry.example/main:1"}


def pod_template(labels: Mapping[str, str], annotations: Mapping[str, str], **spec: object) -> dict[str, Any]:
    return {
        "metadata": {"labels": dict(labels), "annotations": dict(annotations)},
        "spec": {"containers": [CONTAINER], **spec},
    }


def deployment(name: str, replicas: int = 1, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": pod_template(labels, annotations or {}),
        },
    }


def job(name: str, annotations: Mapping[str, str] | None = None, restart: str = "Never") -> dict[str, Any]:
    template = pod_template({"app": name}, annotations or {}, restartPolicy=restart)
    spec = {"backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def claim(name: str, storage_class: str | None = None, size: str = "10Gi") -> dict[str, Any]:
    spec: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def condition(kubectl: Kubectl, kind: str, name: str, wanted: str) -> bool:
    found = kubectl.get(kind, name) or {}
    conditions = found.get("status", {}).get("conditions", [])
    return any(item["type"] == wanted and item["status"] == "True" for item in conditions)


def grow(kubectl: Kubectl, name: str, size: str) -> subprocess.CompletedProcess[str]:
    patch = f'{{"spec": {{"resources": {{"requests": {{"storage": "{size}"}}}}}}}}'
    return kubectl("patch", "persistentvolumeclaim", name, "--patch", patch, check=False)


def capacity(kubectl: Kubectl, name: str) -> str | None:
    found = kubectl.get("persistentvolumeclaim", name) or {}
    size: str | None = found.get("status", {}).get("capacity", {}).get("storage")
    return size


def ready_replicas(kubectl: Kubectl, name: str) -> int:
    found = kubectl.get("deployment", name) or {}
    return int(found.get("status", {}).get("readyReplicas", 0))


def test_nodes_are_ready_and_labelled_as_gpu_feature_discovery_does(cluster: ClusterAccess) -> None:
    found = {node["metadata"]["name"]: node for node in cluster.kubectl.items("nodes")}
    wanted = nodes.fleet()
    assert {node["metadata"]["name"] for node in wanted} <= set(found)
    for node in wanted:
        live = found[node["metadata"]["name"]]
        assert node["metadata"]["labels"].items() <= live["metadata"]["labels"].items()
        assert node["status"]["allocatable"].items() <= live["status"]["allocatable"].items()
        assert {"type": "Ready", "status": "True"}.items() <= live["status"]["conditions"][0].items()
    h200 = found["h200-0"]["metadata"]["labels"]
    assert h200["nvidia.com/gpu.product"] == "NVIDIA-H200"
    assert h200["nvidia.com/gpu.memory"] == "143771"
    assert h200["nvidia.com/gpu.count"] == "8"


def test_versions_are_the_pinned_ones(cluster: ClusterAccess, local_cluster: Cluster) -> None:
    answer = cluster.kubectl.json("version")
    assert answer["clientVersion"]["gitVersion"] == answer["serverVersion"]["gitVersion"]
    assert answer["serverVersion"]["gitVersion"] in str(local_cluster.kubectl.program)


def test_workloads_converge(kubectl: Kubectl) -> None:
    kubectl.apply([deployment("web", replicas=3), claim("cache"), job("load")])
    wait_for(lambda: ready_replicas(kubectl, "web") == 3, message="3 ready replicas")
    wait_for(lambda: condition(kubectl, "job", "load", "Complete"), message="Job Complete")
    wait_for(lambda: capacity(kubectl, "cache") == "10Gi", message="claim Bound with its capacity")
    kubectl("rollout", "status", "deployment/web", "--timeout=20s")


@pytest.fixture
def own_gpu_node(cluster: ClusterAccess) -> Iterator[str]:
    """The name of a node with four GPUs that takes only pods with the toleration OWN: services stay on the others."""
    (node,) = nodes.gpu_nodes("Tesla-T4", gpus=4, nodes=1, prefix="own")
    node["spec"] = {"taints": [{"key": OWN, "effect": "NoSchedule"}]}
    cluster.add_nodes([node])
    yield node["metadata"]["name"]
    cluster.remove_nodes([node])


def test_gpus_are_counted(own_gpu_node: str, kubectl: Kubectl) -> None:
    manifest = deployment("gpu", replicas=3)
    pod = manifest["spec"]["template"]["spec"]
    pod["nodeSelector"] = {"kubernetes.io/hostname": own_gpu_node}
    pod["tolerations"] = [{"key": OWN, "operator": "Exists"}]
    pod["containers"] = [CONTAINER | {"resources": {"limits": {"nvidia.com/gpu": "2"}}}]
    kubectl.apply(manifest)
    wait_for(lambda: ready_replicas(kubectl, "gpu") == 2, message="2 of 3 pods fit 4 GPUs")

    def refused() -> bool:
        events = kubectl.items("events", "--field-selector=reason=FailedScheduling")
        return any("Insufficient nvidia.com/gpu" in event["message"] for event in events)

    wait_for(refused, message="the scheduler says what is short")
    assert ready_replicas(kubectl, "gpu") == 2


def test_claims_grow_where_the_class_allows_it(kubectl: Kubectl) -> None:
    kubectl.apply([claim("elastic"), claim("rigid", "fixed")])
    for name in ("elastic", "rigid"):
        wait_for(partial(capacity, kubectl, name), message=f"{name} bound")
    assert grow(kubectl, "elastic", "20Gi").returncode == 0
    wait_for(lambda: capacity(kubectl, "elastic") == "20Gi", message="the claim reports its new size")
    volume = kubectl.json("get", "persistentvolumeclaim", "elastic")["spec"]["volumeName"]
    assert kubectl.json("get", "persistentvolume", volume)["spec"]["capacity"]["storage"] == "20Gi"
    refused = grow(kubectl, "rigid", "20Gi")
    assert refused.returncode != 0
    assert "storageclass that provisions the pvc must support resize" in refused.stderr
    assert "field can not be less than" in grow(kubectl, "elastic", "5Gi").stderr


def test_held_claim_does_not_grow_until_released(kubectl: Kubectl) -> None:
    kubectl.apply([claim("held"), claim("free")])
    for name in ("held", "free"):
        wait_for(partial(capacity, kubectl, name), message=f"{name} bound")
    kubectl("annotate", "persistentvolumeclaim", "held", f"{HOLD}=true")
    for name in ("held", "free"):
        assert grow(kubectl, name, "20Gi").returncode == 0
    wait_for(lambda: capacity(kubectl, "free") == "20Gi", message="the one that was asked later has grown")
    assert capacity(kubectl, "held") == "10Gi"
    kubectl("annotate", "persistentvolumeclaim", "held", f"{HOLD}-")
    wait_for(lambda: capacity(kubectl, "held") == "20Gi", message="grown after release")


def test_first_consumer_claim_waits_for_its_pod(kubectl: Kubectl) -> None:
    kubectl.apply(claim("late", "first-consumer"))

    def waits() -> bool:
        events = kubectl.items("events", "--field-selector=reason=WaitForFirstConsumer")
        return any(event["involvedObject"]["name"] == "late" for event in events)

    wait_for(waits, message="the volume controller waits for a pod")
    assert capacity(kubectl, "late") is None
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}}
    volume = {"name": "late", "persistentVolumeClaim": {"claimName": "late"}}
    kubectl.apply(pod | {"spec": {"containers": [CONTAINER], "volumes": [volume]}})
    wait_for(lambda: capacity(kubectl, "late") == "10Gi", message="bound once the pod is scheduled")


def test_deleted_claim_takes_its_volume_along(kubectl: Kubectl) -> None:
    kubectl.apply(claim("cache"))
    wait_for(lambda: capacity(kubectl, "cache"), message="bound")
    volume = kubectl.json("get", "persistentvolumeclaim", "cache")["spec"]["volumeName"]
    kubectl("delete", "persistentvolumeclaim", "cache")
    wait_for(lambda: kubectl.get("persistentvolume", volume) is None, message="volume gone")


def test_held_pod_is_not_ready_until_released(kubectl: Kubectl) -> None:
    kubectl.apply(deployment("held", annotations={HOLD: "true"}))

    def running_unready() -> bool:
        statuses = [pod["status"] for pod in kubectl.items("pods")]
        conditions = [item for status in statuses for item in status.get("conditions", ())]
        ready = [item["status"] for item in conditions if item["type"] == "Ready"]
        return ([status["phase"] for status in statuses], ready) == (["Running"], ["False"])

    wait_for(running_unready, message="the held pod runs and is not Ready")
    kubectl("annotate", "pods", "--all", f"{HOLD}-")
    wait_for(lambda: ready_replicas(kubectl, "held") == 1, message="ready after release")
    kubectl("annotate", "pods", "--all", f"{HOLD}=true")
    wait_for(lambda: ready_replicas(kubectl, "held") == 0, message="a ready pod can be held too")


def test_failing_job_fails_with_the_asked_exit_code(kubectl: Kubectl) -> None:
    annotations = {FAIL: "true", "localcluster.test/exit-code": "137", "localcluster.test/reason": "OOMKilled"}
    kubectl.apply(job("broken", annotations))
    wait_for(lambda: condition(kubectl, "job", "broken", "Failed"), message="Job Failed")
    terminated = kubectl.items("pods")[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")


def test_failing_pod_crash_loops_and_recovers(kubectl: Kubectl) -> None:
    kubectl.apply(deployment("looping", annotations={FAIL: "true"}))

    def waiting() -> list[str]:
        statuses = [status for pod in kubectl.items("pods") for status in pod["status"].get("containerStatuses", [])]
        return [status["state"]["waiting"]["reason"] for status in statuses if status["restartCount"] >= 2]

    wait_for(lambda: waiting() == ["CrashLoopBackOff"], message="crash loop with restarts counted")
    assert ready_replicas(kubectl, "looping") == 0
    kubectl("annotate", "pods", "--all", f"{FAIL}-")
    wait_for(lambda: ready_replicas(kubectl, "looping") == 1, message="recovered")


def test_pods_of_others_can_be_annotated(kubectl: Kubectl, namespace: str) -> None:
    message = '{"model": "tiny",\n "path": "C:\\\\x"}'
    with pods.annotate(kubectl, namespace, {"localcluster.test/termination-message": message}, {"app": "report"}):
        kubectl.apply([job("report"), job("silent")])
        for name in ("report", "silent"):
            wait_for(partial(condition, kubectl, "job", name, "Complete"), message=f"{name} Complete")

    def termination(name: str) -> str | None:
        pod = kubectl.items("pods", f"--selector=app={name}")[0]
        text: str | None = pod["status"]["containerStatuses"][0]["state"]["terminated"].get("message")
        return text

    assert termination("report") == message
    assert termination("silent") is None


def test_owned_objects_are_collected(kubectl: Kubectl) -> None:
    kubectl.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}})
    uid = kubectl.json("get", "configmap", "owner")["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    owned = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [reference]}}
    kubectl.apply(owned)
    kubectl("delete", "configmap", "owner")
    wait_for(lambda: kubectl.get("configmap", "owned") is None, message="owned ConfigMap collected")


def test_rbac_denies_what_is_not_granted(cluster: ClusterAccess, kubectl: Kubectl, namespace: str) -> None:
    assert kubectl.get("serviceaccount", "default") is not None
    as_default = kubectl.with_kubeconfig(cluster.kubeconfig_for("default", namespace))
    user = f"system:serviceaccount:{namespace}:default"
    assert as_default.json("auth", "whoami")["status"]["userInfo"]["username"] == user
    with pytest.raises(KubectlError, match="forbidden"):
        as_default("get", "configmaps")
    kubectl("create", "role", "reader", "--verb=get,list", "--resource=configmaps")
    kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:default")
    wait_for(lambda: as_default("get", "configmaps", check=False).returncode == 0, message="granted role in effect")
    with pytest.raises(KubectlError, match="forbidden"):
        as_default("get", "secrets")


def test_pod_security_is_enforced(cluster: ClusterAccess, namespace_factory: NamespaceFactory) -> None:
    namespace = namespace_factory({"pod-security.kubernetes.io/enforce": "restricted"})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": {"containers": [CONTAINER]}}
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted:latest"'):
        cluster.kubectl.in_namespace(namespace)("create", "--filename=-", input=pod)


def test_audit_log_says_who_wrote_what(local_cluster: Cluster, kubectl: Kubectl, namespace: str) -> None:
    account = local_cluster.kubeconfig_for("default", namespace)
    user = f"system:serviceaccount:{namespace}:default"
    mark = local_cluster.audit_mark()
    kubectl("create", "configmap", "mine")
    kubectl.with_kubeconfig(account)("create", "configmap", "theirs", check=False)

    def writes(of: str) -> list[tuple[str, str, str, int]]:
        events = [event for event in local_cluster.audit_events(user=of, since=mark) if event.is_write]
        return [(event.verb, event.resource, event.name, event.code) for event in events]

    wait_for(lambda: writes(user), message="the refused write is logged")
    assert writes("admin") == [("create", "configmaps", "mine", 201)]
    # Refused before its body was read, so the log does not know the name.
    assert writes(user) == [("create", "configmaps", "", 403)]


def test_added_nodes_take_pods(cluster: ClusterAccess, kubectl: Kubectl) -> None:
    added = nodes.scale_nodes(20, product="NVIDIA-H200", prefix="added")
    assert [node["metadata"]["name"] for node in added] == ["added-0", "added-1", "added-2"]
    cluster.add_nodes(added)
    try:
        manifest = deployment("spread")
        manifest["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "added-2"}
        kubectl.apply(manifest)
        wait_for(lambda: ready_replicas(kubectl, "spread") == 1, message="a pod on an added node")
    finally:
        cluster.remove_nodes(added)


def test_unknown_product_is_refused() -> None:
    with pytest.raises(LocalClusterError, match=r"no GPU product 'Voodoo'.*NVIDIA-H200"):
        nodes.gpu_nodes("Voodoo", gpus=1, nodes=1)


def test_other_contexts_are_refused(cluster: ClusterAccess) -> None:
    kubectl = cluster.kubectl
    with pytest.raises(LocalClusterError, match="'production' is not a throw-away cluster"):
        Kubectl(kubectl.program, kubectl.kubeconfig, "production", kubectl.home)


def test_killed_components_come_back_with_their_data(local_cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "survivor")
    for component in ("kube-controller-manager", "kwok", "kube-apiserver", "etcd"):
        before = local_cluster.record.processes[component]
        local_cluster.restart(component)
        assert not before.alive
        assert local_cluster.record.processes[component].alive

    def survives() -> bool:
        return kubectl("get", "configmap", "survivor", check=False).returncode == 0

    wait_for(survives, message="the API server answers from the restarted etcd")
    kubectl.apply(deployment("after"))
    wait_for(lambda: ready_replicas(kubectl, "after") == 1, timeout=60, message="controllers work again")
