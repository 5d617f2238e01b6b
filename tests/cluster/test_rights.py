"""The operator's rights are sufficient and minimal, by the API server's own audit log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import operator_process
import rights
from cluster.support.rivals import SHORT
from localcluster.access import ClusterAccess
from localcluster.audit import AuditEvent
from localcluster.cluster import Cluster
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from operator_process import OperatorProcess

_MONITORING = (("PodMonitor", "podmonitors"), ("PrometheusRule", "prometheusrules"))


def _rules() -> set[rights.Right]:
    roles = [one for one in operator_process.manifests() if one["kind"] in {"ClusterRole", "Role"}]
    mine = [one for one in roles if one["metadata"]["name"] in {"vllm-operator", "vllm-operator-lease"}]
    return rights.granted(rule for role in mine for rule in role["rules"])


def _crd(kind: str, plural: str) -> dict[str, Any]:
    """A kind of the Prometheus operator, as far as the operator needs to know it."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }


@pytest.fixture(scope="module")
def own_cluster(cluster: ClusterAccess) -> Iterator[Cluster]:
    """A cluster of this module's own, with the Prometheus operator's kinds: its audit log holds one scenario."""
    if not isinstance(cluster, Cluster):
        pytest.skip("needs the local control plane; run without CLUSTER=kind")
    started = Cluster.start(f"rights-{os.getpid()}", bound=True)
    started.kubectl.apply([_crd(*one) for one in _MONITORING])
    names = [f"crd/{plural}.monitoring.coreos.com" for _, plural in _MONITORING]
    started.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    operator_process.install(started.kubectl)
    yield started
    started.down()


@pytest.fixture
def own_operator(own_cluster: Cluster) -> Iterator[OperatorProcess]:
    account = own_cluster.kubeconfig_for(operator_process.ACCOUNT, operator_process.NAMESPACE)
    settings = {"leader_elect": "true", "lease_namespace": operator_process.NAMESPACE, **SHORT}
    process = OperatorProcess(account, own_cluster.folder / "operator.log", settings)
    process.start()
    process.wait_ready()
    yield process
    print(process.tail())  # noqa: T201 - shown when the test fails
    assert process.stop() == 0


def _resource(name: str, **spec: object) -> dict[str, Any]:
    common = {"model": {"source": "hf://Qwen/Qwen3-8B", "maxLength": 8192}, "gpu": {"product": "NVIDIA-L4"}}
    return {
        "apiVersion": "vllm-operator.dev/v1alpha1",
        "kind": "VLLMDeployment",
        "metadata": {"name": name},
        "spec": common | spec,
    }


def _everything() -> dict[str, Any]:
    return _resource(
        "everything",
        autoscaling={"minReplicas": 2, "maxReplicas": 3},
        cache={"reclaimPolicy": "Delete"},
        networkPolicy={},
        monitoring={"podMonitor": True, "rules": True, "dashboard": True},
    )


def _little() -> dict[str, Any]:
    return _resource("everything", cache={"ephemeral": True}, replicas=1)


def _refused(port: int) -> dict[str, Any]:
    """Too large for its GPU, whatever the port: a change of it is refused in the same words."""
    model = {"source": "hf://meta-llama/Llama-3.1-70B-Instruct", "maxLength": 8192}
    return _resource("refused", model=model, gpu={"product": "NVIDIA-L4", "count": 1}, service={"port": port})


def _crashing() -> dict[str, Any]:
    """Its log is asked for, and then who ended it."""
    ends = {"localcluster.test/fail": "true", "localcluster.test/exit-code": "0"}
    template = {"metadata": {"annotations": ends}}
    return _resource("crashing", gpu={"count": 0}, cache={"ephemeral": True}, podTemplate=template)


_MARK = "app.kubernetes.io/managed-by"
_KINDS = (
    "persistentvolumeclaims,jobs,horizontalpodautoscalers,poddisruptionbudgets,networkpolicies,podmonitors,"
    "prometheusrules,configmaps"
)


def _children(kubectl: Kubectl) -> set[str]:
    """Kinds of what there is, but for the Job that looks at a model: it tells nothing here, and is tried anew."""
    found = kubectl.items(_KINDS, f"--selector={_MARK}=vllm-operator,app.kubernetes.io/component!=inspect")
    return {one["kind"] for one in found if "deletionTimestamp" not in one["metadata"]}


def _log(cluster: Cluster) -> list[AuditEvent]:
    return list(cluster.audit_events(user=operator_process.USER))


def _asserted_empty(found: list[str]) -> list[str]:
    assert found == []
    return found


def _events(kubectl: Kubectl) -> list[dict[str, Any]]:
    mine = kubectl.items("events", "--field-selector=involvedObject.name=refused")
    return [one for one in mine if one["type"] == "Warning"]


def test_every_right_is_used_and_none_is_missing(own_cluster: Cluster, own_operator: OperatorProcess) -> None:
    kubectl = own_cluster.kubectl.in_namespace("default")
    kubectl.apply([_everything(), _refused(80), _crashing()])
    kubectl("wait", "--for=condition=Ready", "vllmdeployment/everything", "--timeout=60s", timeout=70)
    assert len(_children(kubectl)) == 8
    kubectl("label", f"{_KINDS},services,serviceaccounts,deployments", "--all", f"{_MARK}-")  # no watch tells of them
    wait_for(lambda: len(_children(kubectl)) == 8, message="they are found and marked again")
    wait_for(lambda: _events(kubectl), message="the refusal is said")
    own_operator.restart()
    kubectl.apply([_little(), _refused(8000)])
    wait_for(lambda: not _children(kubectl), message="what is no longer asked for is gone")
    kubectl("wait", "--for=condition=Ready", "vllmdeployment/everything", "--timeout=60s", timeout=70)

    def idle_rights() -> list[str]:
        return sorted(map(str, _rules() - rights.used(_log(own_cluster))))

    wait_for(lambda: not _asserted_empty(idle_rights()), message="every right is used")
    assert rights.denied(_log(own_cluster)) == []
    assert sorted(map(str, rights.used(_log(own_cluster)) - _rules())) == [], "answered without a right"


@pytest.mark.runs_last
def test_the_whole_run_was_within_the_rights(cluster: ClusterAccess, installed: Path) -> None:
    if not isinstance(cluster, Cluster):
        pytest.skip("needs the audit log of the local control plane; run without CLUSTER=kind")
    assert installed.exists()
    # Refusals say nothing here: some tests provoke them, and a starting API server refuses what it will grant.
    assert sorted(map(str, rights.used(_log(cluster)) - _rules())) == []
