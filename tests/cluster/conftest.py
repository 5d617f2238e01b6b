"""What tests against a real control plane share: the operator, installed and running under its service account."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import operator_process
from cluster.support.arena import arena, arena_namespace, launch
from cluster.support.fixtures import administrator, api, create, namespace_factory, samples
from cluster.support.unharmed import unharmed
from localcluster.access import ClusterAccess
from operator_process import OperatorProcess

__all__ = [
    "administrator",
    "api",
    "arena",
    "arena_namespace",
    "create",
    "launch",
    "namespace_factory",
    "samples",
    "unharmed",
]  # fixtures

_FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marks of these tests mean."""
    config.addinivalue_line("markers", "runs_last: looks back on the whole run")
    config.addinivalue_line("markers", "arena: has a control plane of its own; set for all that ask for one")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks back comes last, what has its own control plane is marked; the order is otherwise left as it is."""
    for item in items:
        if {"arena", "fresh"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("arena")
    items.sort(key=lambda item: item.get_closest_marker("runs_last") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test failed, so that what it leaves behind can be shown."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(scope="session")
def installed(cluster: ClusterAccess) -> Path:
    """The kubeconfig of the operator's service account; CRD and RBAC of manifests/install.yaml are in force."""
    operator_process.install(cluster.kubectl)
    return cluster.kubeconfig_for(operator_process.ACCOUNT, operator_process.NAMESPACE)


@pytest.fixture(scope="session")
def _operator(cluster: ClusterAccess, installed: Path) -> Iterator[OperatorProcess]:
    process = OperatorProcess(installed, cluster.folder / "operator.log")
    yield process
    if process.alive:
        assert process.stop() == 0, f"the operator ended badly:\n{process.tail()}"


@pytest.fixture
def operator(_operator: OperatorProcess, request: pytest.FixtureRequest) -> Iterator[OperatorProcess]:
    """The operator of this run, ready. A test may stop, kill and restart it: the next test finds it running again.

    When the test fails, what the operator logged meanwhile is shown.
    """
    since = _operator.mark()
    _operator.start()
    _operator.wait_ready()
    yield _operator
    if request.node.stash.get(_FAILED, False):
        print(f"--- the operator's log during this test ---\n{_operator.tail(since)}")  # noqa: T201
