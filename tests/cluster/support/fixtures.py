"""Fixtures of the tests that watch the operator at work; tests/cluster/conftest.py offers them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pytest

from cluster.support import samples as all_samples
from cluster.support.api import NAMESPACE, Api
from cluster.support.samples import Samples
from cluster.support.service import Service
from localcluster.access import ClusterAccess
from localcluster.fixtures import NamespaceFactory, namespace_name
from localcluster.wait import wait_for
from operator_process import OperatorProcess
from vllm_operator import kinds

_LOOK_SECONDS = 0.01


class Create(Protocol):
    """Makes a VLLMDeployment in the namespace of the test from merge patches over the plainest spec."""

    def __call__(self, name: str, *patches: Mapping[str, Any]) -> Service: ...


@pytest.fixture(scope="session")
def administrator(cluster: ClusterAccess) -> Api:
    """The API server, as cluster administrator, whatever a test file calls `api`."""
    return Api(cluster.kubeconfig)


@pytest.fixture(scope="session")
def api(administrator: Api) -> Api:
    """The API server, as cluster administrator."""
    return administrator


@pytest.fixture
def namespace_factory(administrator: Api, request: pytest.FixtureRequest) -> Iterator[NamespaceFactory]:
    """As that of the harness, without kubectl: most tests begin and end with it."""
    made: list[str] = []

    def make(labels: Mapping[str, str]) -> str:
        name = namespace_name(request.node.name)
        administrator.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}
        )
        made.append(name)
        account = f"ServiceAccount default in namespace {name}"
        wait_for(
            lambda: administrator.get(kinds.SERVICE_ACCOUNT, name, "default"), message=account, interval=_LOOK_SECONDS
        )
        return name

    yield make
    for name in made:
        found = administrator.get(NAMESPACE, None, name)
        if found and "deletionTimestamp" not in found["metadata"]:
            administrator.delete(NAMESPACE, "", name)


@pytest.fixture
def create(api: Api, namespace: str, operator: OperatorProcess) -> Create:
    """Make resources in the namespace of the test while the operator runs."""
    assert operator.alive

    def make(name: str, *patches: Mapping[str, Any]) -> Service:
        return Service.create(api, namespace, name, *patches)

    return make


@pytest.fixture(scope="session")
def samples(cluster: ClusterAccess, api: Api, _operator: OperatorProcess) -> Iterator[Samples]:
    """Every sample, applied at once; they stay until the run ends."""
    _operator.start()
    _operator.wait_ready()
    with all_samples.no_hub(cluster):
        deployed = all_samples.deploy(cluster, api)
        yield deployed
    all_samples.remove(cluster, deployed)
