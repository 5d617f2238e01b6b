"""The operator as it is installed: two pods of its own image, of which one leads; an update of them hands over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

import operator_process
from localcluster.audit import AuditEvent
from localcluster.cluster import Cluster
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from operator_process import INSTALL, NAMESPACE, USER

pytestmark = [pytest.mark.real_node, pytest.mark.long]

_ROLLOUT_SECONDS = 180.0


@pytest.fixture
def system(local_cluster: Cluster) -> Iterator[Kubectl]:
    """kubectl in the namespace of the operator, which runs as install.yaml says."""
    kubectl = local_cluster.kubectl.in_namespace(NAMESPACE)
    operator_process.install(local_cluster.kubectl)
    kubectl("apply", "--server-side", f"--filename={INSTALL}")
    _rolled_out(kubectl)
    yield kubectl
    for pod in kubectl.items("pods"):
        print(kubectl("logs", pod["metadata"]["name"], check=False).stdout)  # noqa: T201 - shown when the test fails
    kubectl("delete", "deployment", "vllm-operator", "--wait")


def _rolled_out(kubectl: Kubectl) -> None:
    waits = ("rollout", "status", "deployment/vllm-operator", f"--timeout={_ROLLOUT_SECONDS:.0f}s")
    kubectl(*waits, timeout=_ROLLOUT_SECONDS + 10)


def _holder(kubectl: Kubectl) -> str:
    """The name of the pod that leads."""
    lease = kubectl.get("lease", "vllm-operator") or {"spec": {}}
    return str(lease["spec"].get("holderIdentity") or "").partition("_")[0]


def _pods(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    found = kubectl.items("pods", "--selector=app.kubernetes.io/name=vllm-operator")
    return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def _terms(cluster: Cluster) -> list[AuditEvent]:
    """Every successful write to the Lease."""
    events = cluster.audit_events(USER)
    mine = [one for one in events if one.resource == "leases" and one.is_write and one.stage == "ResponseComplete"]
    return [one for one in mine if one.code < 300]


def _seconds(earlier: AuditEvent, later: AuditEvent) -> float:
    return (datetime.fromisoformat(later.received) - datetime.fromisoformat(earlier.received)).total_seconds()


def test_an_update_of_the_operator_hands_over(local_cluster: Cluster, system: Kubectl, kubectl: Kubectl) -> None:
    wait_for(lambda: _holder(system), message="somebody leads")
    before, first = _pods(system), _holder(system)
    assert first in before
    resource = {"model": {"source": "hf://Qwen/Qwen3-0.6B"}, "gpu": {"count": 0}, "replicas": 0}
    name = {"apiVersion": "vllm-operator.dev/v1alpha1", "kind": "VLLMDeployment", "metadata": {"name": "idle"}}
    kubectl.apply({**name, "spec": resource})
    kubectl("wait", "--for=condition=Accepted", "vllmdeployment/idle", "--timeout=60s", timeout=70)
    system("rollout", "restart", "deployment/vllm-operator")
    _rolled_out(system)
    wait_for(lambda: _holder(system) in _pods(system).keys() - before.keys(), 60, "a new pod leads")
    kubectl("patch", "vllmdeployment", "idle", "--type=merge", "--patch", '{"spec": {"service": {"port": 9000}}}')

    def served() -> bool:
        service = kubectl.get("service", "idle") or {"spec": {"ports": [{}]}}
        return bool(service["spec"]["ports"][0].get("port") == 9000)

    wait_for(served, message="the new leader works")
    restarts = {name: pod["status"]["containerStatuses"][0]["restartCount"] for name, pod in _pods(system).items()}
    assert set(restarts.values()) == {0}
    changes = [pair for pair in pairwise(_terms(local_cluster)) if pair[0].user_agent != pair[1].user_agent]
    print(f"handed over after {[round(_seconds(*pair), 2) for pair in changes]} s")  # noqa: T201 - a figure
    assert changes
    assert all(_seconds(*pair) < 10 for pair in changes), "a lease ran out instead"
