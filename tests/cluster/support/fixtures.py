"""Fixtures of the tests that watch the operator at work; tests/cluster/conftest.py offers them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pytest

from cluster.support import samples as all_samples
from cluster.support.api import Api
from cluster.support.samples import Samples
from cluster.support.service import Service
from localcluster.access import ClusterAccess
from operator_process import OperatorProcess


class Create(Protocol):
    """Makes a VLLMDeployment in the namespace of the test from merge patches over the plainest spec."""

    def __call__(self, name: str, *patches: Mapping[str, Any]) -> Service: ...


@pytest.fixture(scope="session")
def api(cluster: ClusterAccess) -> Api:
    """The API server, as cluster administrator."""
    return Api(cluster.kubeconfig)


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
    deployed = all_samples.deploy(cluster, api)
    yield deployed
    all_samples.remove(cluster, deployed)
