"""Kinds of other projects: used where the cluster has them, missed without harm where it has not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.support.api import Api, Manifest
from cluster.support.fixtures import Create
from localcluster.access import ClusterAccess
from localcluster.wait import wait_for
from operator_process import OperatorProcess
from vllm_operator import kinds
from vllm_operator.kinds import Kind

OPTIONAL = tuple(kind for kind in kinds.CHILDREN if kind.optional)
MONITORED = {"monitoring": {"podMonitor": True, "rules": True}}
_ANY_SPEC = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _definition(kind: Kind) -> Manifest:
    """A definition that takes any spec, in the place of the Prometheus operator's own."""
    names = {"kind": kind.kind, "plural": kind.plural, "listKind": f"{kind.kind}List", "singular": kind.kind.lower()}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": _ANY_SPEC}}}
    version = {"name": kind.version, "served": True, "storage": True, "schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {"group": kind.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


@pytest.fixture
def definitions(cluster: ClusterAccess, operator: OperatorProcess) -> Iterator[list[str]]:
    """The kinds of the Prometheus operator, there when the operator started."""
    made = [_definition(kind) for kind in OPTIONAL]
    names = [f"crd/{one['metadata']['name']}" for one in made]
    cluster.kubectl("create", "--filename=-", input=made)
    cluster.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")
    operator.restart()
    yield names
    cluster.kubectl("delete", "--ignore-not-found", *names)
    operator.restart()


def _await(api: Api, kind: Kind, wanted: Manifest) -> None:
    """Wait until an object has the spec that it had."""
    namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]

    def is_again() -> bool:
        live = api.get(kind, namespace, name)
        return live is not None and live["spec"] == wanted["spec"]

    wait_for(is_again, message=f"{kind} {name} as it was")


def _uninstall(cluster: ClusterAccess, definitions: list[str], operator: OperatorProcess) -> None:
    """Take the kinds away: the watches of an operator cannot be healed then, so it ends, and is started anew."""
    cluster.kubectl("delete", *definitions)
    wait_for(lambda: not operator.alive, message="the operator notices that a kind is gone, and ends")
    assert operator.process.returncode == 1
    operator.start()  # as the kubelet would
    operator.wait_ready()


def test_objects_of_the_prometheus_operator(
    create: Create,
    api: Api,
    namespace: str,
    definitions: list[str],
    cluster: ClusterAccess,
    operator: OperatorProcess,
) -> None:
    service = create("web", MONITORED).wait_ready()
    assert service.condition("Accepted")["message"] == ""
    before = {kind: api.get(kind, namespace, "web") for kind in OPTIONAL}
    for kind, one in before.items():
        assert one is not None, kind
        assert one["metadata"]["ownerReferences"][0]["uid"] == service.uid
        api.merge(kind, namespace, "web", {"spec": dict.fromkeys(one["spec"])})
        _await(api, kind, one)
        api.delete(kind, namespace, "web")
        _await(api, kind, one)
    service.edit({"monitoring": {"podMonitor": False}})
    wait_for(lambda: api.get(kinds.POD_MONITOR, namespace, "web") is None, message="no PodMonitor")
    _uninstall(cluster, definitions, operator)
    service.edit({"replicas": 2})
    service.wait_ready()
    assert "CRDNotInstalled: PrometheusRule web" in service.condition("Accepted")["message"]
