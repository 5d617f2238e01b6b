"""Pytest fixtures: one cluster for the run, one namespace for each test, and the real kubectl.

LOCALCLUSTER_KUBECONFIG=PATH   use the local cluster whose kubeconfig this is (`python -m localcluster kubeconfig`)
CLUSTER=kind                   use a kind cluster; tests that break or audit the control plane skip
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from localcluster import state
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.errors import LocalClusterError
from localcluster.kind import KindCluster, KindUnavailableError
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for

_NAMESPACE_DEADLINE_SECONDS = 20.0
_MOST_OF_A_NAME = 40
_READY_SECONDS = pytest.StashKey[dict[str, float]]()

NamespaceFactory = Callable[[Mapping[str, str]], str]


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[ClusterAccess]:
    """The cluster that this run uses: a local control plane of its own unless the environment names another."""
    wanted = os.environ.get("CLUSTER", "local")
    if wanted == "kind":
        yield from _kind()
    elif wanted != "local":
        pytest.exit(f"CLUSTER={wanted!r} is not known; leave it unset, or use `local` or `kind`", returncode=2)
    elif kubeconfig := os.environ.get("LOCALCLUSTER_KUBECONFIG"):
        yield running(Path(kubeconfig))
    else:
        started = Cluster.start(f"pytest-{os.getpid()}", bound=True)
        pytestconfig.stash[_READY_SECONDS] = started.ready_seconds
        yield started
        started.down()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long the control plane took to be ready."""
    seconds = terminalreporter.config.stash.get(_READY_SECONDS, None)
    if seconds:
        parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        terminalreporter.write_line(f"local cluster ready after: {parts}")


@pytest.fixture
def local_cluster(cluster: ClusterAccess) -> Cluster:
    """The local control plane, for tests that break it or read its audit log; skips elsewhere."""
    if not isinstance(cluster, Cluster):
        pytest.skip("needs the local control plane; run without CLUSTER=kind")
    return cluster


@pytest.fixture
def namespace_factory(cluster: ClusterAccess, request: pytest.FixtureRequest) -> Iterator[NamespaceFactory]:
    """Make namespaces with given labels; all are deleted, without waiting, when the test ends."""
    made: list[str] = []

    def make(labels: Mapping[str, str]) -> str:
        name = namespace_name(request.node.name)
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}
        cluster.kubectl("create", "--filename=-", input=manifest)
        made.append(name)
        scoped = cluster.kubectl.in_namespace(name)
        # Before the account exists no pod can be created, and controllers back off.
        wait_for(
            lambda: scoped.get("serviceaccount", "default"),
            _NAMESPACE_DEADLINE_SECONDS,
            f"ServiceAccount default in namespace {name}",
        )
        return name

    yield make
    if made:
        cluster.kubectl("delete", "namespace", "--wait=false", "--ignore-not-found", *made)


@pytest.fixture
def namespace(namespace_factory: NamespaceFactory) -> str:
    """A namespace of this test's own."""
    return namespace_factory({})


@pytest.fixture
def kubectl(cluster: ClusterAccess, namespace: str) -> Kubectl:
    """The real kubectl as cluster administrator, in the namespace of this test."""
    return cluster.kubectl.in_namespace(namespace)


def _kind() -> Iterator[ClusterAccess]:
    try:
        opened = KindCluster.open()
    except KindUnavailableError as reason:
        pytest.skip(str(reason))
    yield opened
    opened.close()


def running(kubeconfig: Path) -> Cluster:
    """Return the local cluster that is up and has this kubeconfig.

    Raises:
        LocalClusterError: there is none.
    """
    layout = state.Layout(kubeconfig.absolute().parent)
    found = Cluster.attach(layout.name) if layout == state.layout_of(layout.name) else None
    if found is None or found.kubeconfig != kubeconfig.absolute():
        raise LocalClusterError(
            f"LOCALCLUSTER_KUBECONFIG={kubeconfig} is not of a running local cluster; "
            "start one with `python -m localcluster up` and use what `python -m localcluster kubeconfig` prints"
        )
    return found


def namespace_name(test: str) -> str:
    """Return a new name of a namespace that tells of the test by whose name it is called."""
    words = re.sub(r"[^a-z0-9]+", "-", test.lower().removeprefix("test_"))[:_MOST_OF_A_NAME].strip("-")
    return f"{words or 'test'}-{secrets.token_hex(3)}"
