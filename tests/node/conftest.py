"""The cluster of these tests: a real control plane with one real node, where pods run (localcluster/README.md)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import models
from localcluster import fixtures
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.fixtures import NamespaceFactory
from localcluster.requirements import NodeUnavailableError

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterAccess]:
    """A cluster whose only node is a real one; skips where none can run.

    LOCALCLUSTER_KUBECONFIG may name one that is up, started with `python -m localcluster up --node`.
    """
    kubeconfig = os.environ.get("LOCALCLUSTER_KUBECONFIG")
    running = fixtures.running(Path(kubeconfig)) if kubeconfig else None
    if running is not None and running.record.network is not None:
        yield running
        return
    try:
        started = Cluster.start(f"pytest-{os.getpid()}-node", bound=True, real_node=True)
    except NodeUnavailableError as reason:
        pytest.skip(str(reason))
    yield started
    started.down()


@pytest.fixture
def namespace(namespace_factory: NamespaceFactory) -> str:
    """A namespace of this test's own that enforces the restricted Pod Security Standard."""
    return namespace_factory(RESTRICTED)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repositories `tiny-llama`, `adapter-a` and `adapter-b` (images/models.py)."""
    folder = tmp_path_factory.mktemp("models")
    models.tiny_llama(folder / "tiny-llama")
    models.lora_adapter(folder / "adapter-a", seed=1)
    models.lora_adapter(folder / "adapter-b", seed=2)
    return folder
