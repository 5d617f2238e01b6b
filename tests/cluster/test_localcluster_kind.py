"""The way onto a kind cluster, walked on a control plane that looks like one: a node and a default class of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import nodes
from localcluster.cluster import Cluster
from localcluster.errors import LocalClusterError
from localcluster.kind import KindCluster, KindUnavailableError
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for

KIND_NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "kind-control-plane"}}
KIND_CLASS = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "rancher.io/local-path",
    "volumeBindingMode": "WaitForFirstConsumer",
    "reclaimPolicy": "Delete",
}
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "cache"},
    "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
}


@pytest.fixture
def kind_like(local_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubectl]:
    own = Cluster.start(f"kind-like-{os.getpid()}", bound=True)
    assert own.layout != local_cluster.layout
    own.kill("kwok")
    own.remove_nodes(nodes.fleet())
    own.kubectl("create", "--filename=-", input=KIND_NODE)
    own.kubectl("replace", "--force", "--filename=-", input=KIND_CLASS)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(own.kubeconfig.read_text().replace(own.context, "kind-test"))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    yield own.kubectl
    own.down()


def storage_class(kubectl: Kubectl) -> dict[str, object]:
    found = kubectl.json("get", "storageclass", "standard")
    return {key: found[key] for key in ("provisioner", "volumeBindingMode", "reclaimPolicy")}


def test_kind_context_gets_simulated_nodes_and_is_left_as_found(kind_like: Kubectl) -> None:
    before = storage_class(kind_like)
    cluster = KindCluster.open()
    try:
        assert cluster.context == "kind-test"
        node = kind_like.json("get", "node", "kind-control-plane")
        assert node["spec"]["unschedulable"] is True
        cluster.kubectl.apply(CLAIM)
        cluster.kubectl("create", "deployment", "web", "--image=registry.example/web:1")
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
        wait_for(lambda: cluster.kubectl.json("get", "pvc", "cache")["status"]["phase"] == "Bound", message="Bound")
        assert cluster.kubeconfig_for("default", "default").exists()
        with pytest.raises(LocalClusterError, match="without CLUSTER=kind"):
            cluster.restart("etcd")
    finally:
        cluster.close()
    assert not cluster.folder.exists()
    assert [node["metadata"]["name"] for node in kind_like.items("nodes")] == ["kind-control-plane"]
    assert "unschedulable" not in kind_like.json("get", "node", "kind-control-plane")["spec"]
    assert storage_class(kind_like) == before


def test_without_kind_the_reason_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("localcluster.kind.shutil.which", lambda _program: None)
    with pytest.raises(KindUnavailableError, match="no kind and no docker on PATH"):
        KindCluster.open()
