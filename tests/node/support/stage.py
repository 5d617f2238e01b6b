"""Where the product is shown: a hub, a namespace of restricted pods, and the operator as a process of this machine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import operator_process
from hub import Hub
from localcluster.cluster import Cluster
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from operator_process import OperatorProcess

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}
BASE, ADAPTERS = "acme/tiny-llama", ("acme/adapter-a", "acme/adapter-b")


@dataclass(frozen=True, slots=True)
class Stage:
    """A namespace that enforces the restricted Pod Security Standard, the hub of its models, and the operator.

    kubectl: the administrator's, in the namespace.
    """

    cluster: Cluster
    kubectl: Kubectl
    hub: Hub
    operator: OperatorProcess

    @property
    def namespace(self) -> str:
        assert self.kubectl.namespace is not None
        return self.kubectl.namespace


@contextmanager
def on_stage(cluster: Cluster, name: str) -> Iterator[Stage]:
    """Start the operator and a hub, and stop them at the end; `name` begins the name of the namespace."""
    operator_process.install(cluster.kubectl)
    account = cluster.kubeconfig_for(operator_process.ACCOUNT, operator_process.NAMESPACE)
    kubectl = _namespace(cluster, f"{name}-{secrets.token_hex(3)}")
    operator = OperatorProcess(account, cluster.folder / f"operator-{kubectl.namespace}.log")
    with Hub(cluster.node.network.host) as hub, _running(operator):
        yield Stage(cluster, kubectl, hub, operator)
        cluster.kubectl("delete", "namespace", str(kubectl.namespace), "--wait=false")


@contextmanager
def _running(operator: OperatorProcess) -> Iterator[None]:
    """Start the operator; at the end it must still run, end when it is asked to, and have met no bug of its own."""
    operator.start()
    operator.wait_ready()
    try:
        yield
        assert operator.alive, f"the operator ended with {operator.process.returncode}:\n{operator.tail()}"
    finally:
        code = operator.stop()
    assert code == 0, f"the operator ended badly:\n{operator.tail()}"
    assert "Traceback" not in operator.log.read_text(), operator.tail(lines=200)


def offer_models(hub: Hub, folder: Path, *, token: str = "") -> str:
    """Let the hub serve the tiny model and its adapters from `folder`, and return the commit of the model."""
    for adapter in ADAPTERS:
        hub.add(adapter, folder / adapter.partition("/")[2], token=token)
    return hub.add(BASE, folder / BASE.partition("/")[2], token=token).sha


def _namespace(cluster: Cluster, name: str) -> Kubectl:
    cluster.kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(RESTRICTED)}}
    )
    kubectl = cluster.kubectl.in_namespace(name)
    wait_for(lambda: kubectl.get("serviceaccount", "default"), message=f"ServiceAccount default in {name}")
    return kubectl
