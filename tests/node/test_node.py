"""The real node does what a node does; the real vLLM answers on it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from images import recipes
from localcluster import state
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.kubectl import Kubectl
from localcluster.network import Network, free_slot
from localcluster.nodeconfig import NODE_NAME
from localcluster.wait import wait_for
from node.support import workloads
from vllm_operator.plan.types import Defaults

pytestmark = pytest.mark.real_node

VLLM_IMAGE, _ = recipes.VLLM_NAMES
ADAPTERS = ("adapter-a", "adapter-b")
READY_SECONDS = 300.0


def test_images_are_called_as_the_operator_calls_them_by_default() -> None:
    defaults = Defaults()
    assert (defaults.cpu_image, defaults.engine_image) == recipes.VLLM_NAMES
    assert defaults.fetch_image == recipes.OPERATOR_NAME


def test_node_is_real_and_the_only_one(cluster: ClusterAccess) -> None:
    (node,) = cluster.kubectl.items("nodes")
    assert node["metadata"]["name"] == NODE_NAME
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == NODE_NAME
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://2.")
    assert int(node["status"]["capacity"]["cpu"]) == os.cpu_count()


@pytest.fixture(scope="module")
def vllm(cluster: ClusterAccess, tiny_model: Path) -> Iterator[tuple[Kubectl, str]]:
    """vLLM with the tiny model behind a Service, as kubectl of its namespace and the URL of the Service."""
    assert isinstance(cluster, Cluster)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    name = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vllm", "labels": labels}}
    cluster.kubectl.apply(name)
    kubectl = cluster.kubectl.in_namespace("vllm")
    kubectl.apply([workloads.claim("models", mode="ReadWriteMany"), workloads.service("vllm", 8000)])
    cluster.fill_claim(kubectl, "models", tiny_model)
    kubectl.apply(_deployment())
    kubectl("rollout", "status", "deployment/vllm", f"--timeout={READY_SECONDS:g}s", timeout=READY_SECONDS + 10)
    service = kubectl.get("service", "vllm")
    assert service is not None
    yield kubectl, f"http://{service['spec']['clusterIP']}"
    cluster.kubectl("delete", "namespace", "vllm", "--wait=false")


def _deployment() -> dict[str, Any]:
    options = {"dtype": "float32", "max-model-len": 1024, "max-num-seqs": 4, "kv-cache-memory-bytes": "64m"}
    adapters = [f"{name}=/models/{name}" for name in ADAPTERS]
    command = [
        *("vllm", "serve", "/models/tiny-llama", "--served-model-name", "tiny", "--enforce-eager"),
        *(f"--{name}={value}" for name, value in options.items()),
        *("--enable-lora", "--max-lora-rank", "8", "--lora-modules", *adapters),
    ]
    spec = workloads.pod_spec(command, claims={"/models": "models"}, image=VLLM_IMAGE)
    container = spec["containers"][0]
    health = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1}
    container["startupProbe"] = health | {"failureThreshold": int(READY_SECONDS)}
    container["readinessProbe"] = health
    container["env"] = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - a path in the container
        {"name": "HF_HUB_OFFLINE", "value": "1"},
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
    ]
    container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    spec["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vllm"},
        "spec": {
            "selector": {"matchLabels": {"app": "vllm"}},
            "template": {"metadata": {"labels": {"app": "vllm"}}, "spec": spec},
        },
    }


def _chat(url: str, model: str) -> str:
    body = {
        "model": model,
        "temperature": 0,
        "max_tokens": 32,
        "messages": [{"role": "user", "content": "What is a pod?"}],
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        content: str = json.load(answer)["choices"][0]["message"]["content"]
    return content


@pytest.mark.long
def test_vllm_answers_through_its_service(vllm: tuple[Kubectl, str]) -> None:
    _, url = vllm
    answer = _chat(url, "tiny")
    assert answer == _chat(url, "tiny")
    assert len(answer) == 32
    assert len(set(answer)) > 8, f"a loop of few tokens: {answer!r}"


@pytest.mark.long
def test_adapters_answer_differently(vllm: tuple[Kubectl, str]) -> None:
    _, url = vllm
    assert len({_chat(url, model) for model in ("tiny", *ADAPTERS)}) == 3


@pytest.mark.long
def test_logs_and_exec_reach_the_container(vllm: tuple[Kubectl, str]) -> None:
    kubectl, _ = vllm
    assert "Application startup complete" in kubectl("logs", "deployment/vllm").stdout
    assert kubectl("exec", "deployment/vllm", "--", "id", "-u").stdout.strip() == "1000"
    written = kubectl("exec", "deployment/vllm", "--", "touch", "/opt/vllm/x", check=False)
    assert "Read-only file system" in written.stderr


@pytest.mark.long
def test_a_restarted_kubelet_keeps_the_containers(local_cluster: Cluster, vllm: tuple[Kubectl, str]) -> None:
    kubectl, url = vllm
    before = _containers(kubectl)
    local_cluster.restart("kubelet")
    wait_for(lambda: kubectl("logs", "deployment/vllm", "--tail=1", check=False).stdout, 30, "logs by the new kubelet")
    assert _containers(kubectl) == before
    assert _chat(url, "tiny")


def _containers(kubectl: Kubectl) -> list[tuple[str, int, bool]]:
    return [
        (container["containerID"], container["restartCount"], container["ready"])
        for pod in kubectl.items("pods")
        for container in pod["status"]["containerStatuses"]
    ]


@pytest.mark.parametrize("storage_class", ["standard", "first-consumer"])
@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteMany"])
def test_claims_are_bound_and_kept_until_they_are_deleted(
    local_cluster: Cluster, kubectl: Kubectl, storage_class: str, mode: str
) -> None:
    write = workloads.pod("write", ["sh", "-c", "echo kept >/data/file"], claims={"/data": "data"})
    read = workloads.pod("read", ["cat", "/data/file"], claims={"/data": "data"})
    kubectl.apply([workloads.claim("data", storage_class, mode), write])
    assert workloads.finished(kubectl, "write") == "Succeeded"
    kubectl.apply(read)
    assert workloads.finished(kubectl, "read") == "Succeeded"
    assert kubectl("logs", "read").stdout == "kept\n"
    folder = local_cluster.claim_folder(kubectl, "data")
    assert (folder / "file").exists()
    kubectl("delete", "pods", "--all")
    kubectl("delete", "pvc", "data")
    wait_for(lambda: not folder.exists(), 30, f"{folder} removed with its claim")


def test_a_tiny_volume_runs_full(kubectl: Kubectl) -> None:
    fill = workloads.pod("fill", ["dd", "if=/dev/zero", "of=/data/x", "bs=1M", "count=20"], claims={"/data": "data"})
    kubectl.apply([workloads.claim("data", "tiny"), fill])
    assert workloads.finished(kubectl, "fill") == "Failed"
    assert "No space left on device" in kubectl("logs", "fill").stdout


def test_gpu_capacity_is_honoured(local_cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(workloads.pod("gpu", ["id"], resources={"nvidia.com/gpu": "1"}))
    unschedulable = "-o=jsonpath={.status.conditions[?(@.type=='PodScheduled')].reason}"
    wait_for(lambda: kubectl("get", "pod", "gpu", unschedulable).stdout == "Unschedulable", 30, "pod is unschedulable")
    local_cluster.set_gpus("NVIDIA-L4", 2)
    # The scheduler may see the new capacity before the kubelet does, which then turns the pod away.
    while workloads.finished(kubectl, "gpu") == "Failed":
        assert kubectl("get", "pod", "gpu", "-o=jsonpath={.status.reason}").stdout.startswith("OutOf")
        kubectl("delete", "pod", "gpu", "--now")
        kubectl.apply(workloads.pod("gpu", ["id"], resources={"nvidia.com/gpu": "1"}))
    assert workloads.finished(kubectl, "gpu") == "Succeeded"
    node = local_cluster.kubectl.get("node", NODE_NAME)
    assert node is not None
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-L4"


def test_pods_find_services_by_name(kubectl: Kubectl, namespace: str) -> None:
    serve = workloads.pod("web", ["python3", "-m", "http.server", "8080", "--directory", "/etc"])
    kubectl.apply([serve, workloads.service("web", 8080)])
    kubectl("wait", "pod/web", "--for=condition=Ready", "--timeout=60s", timeout=70)
    fetch = (
        "import time, urllib.request\n"
        "for attempt in range(100):\n"
        "    try:\n"
        f"        print(urllib.request.urlopen('http://web.{namespace}.svc/hostname').read()); break\n"
        "    except OSError as error:\n"
        "        print(error); time.sleep(0.1)\n"
    )
    kubectl.apply(workloads.pod("client", ["python3", "-c", fetch]))
    assert workloads.finished(kubectl, "client") == "Succeeded"
    assert "web" in kubectl("logs", "client").stdout.splitlines()[-1]


_ABANDONED = """
import sys, time
from localcluster.cluster import Cluster
cluster = Cluster.start(sys.argv[1], bound=True, real_node=True)
print(cluster.node.network.link, flush=True)
time.sleep(600)
"""


def test_a_link_that_outlasts_its_routes_is_not_taken_again() -> None:
    # Higher than any that another cluster of this machine comes to.
    lower = set(range(35))
    slot = free_slot(lower)
    link = Network(slot).link
    subprocess.run(["ip", "link", "add", link, "type", "veth", "peer", "name", f"{link}-peer"], check=True)
    try:
        assert free_slot(lower) != slot
    finally:
        subprocess.run(["ip", "link", "delete", link], check=True)


def test_a_killed_owner_leaves_nothing_behind(cluster: ClusterAccess) -> None:
    assert cluster.folder.exists()  # two nodes side by side
    name = f"pytest-{os.getpid()}-killed"
    layout = state.layout_of(name)
    with subprocess.Popen([sys.executable, "-c", _ABANDONED, name], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        link = owner.stdout.readline().strip()
        assert Path("/sys/class/net", link).exists()
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not Path("/sys/class/net", link).exists(), 30, f"link {link} gone with the node's namespace")
    state.sweep()
    assert not layout.root.exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{layout.cgroup}"))
