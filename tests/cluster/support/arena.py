"""A control plane of their own for tests that break it, or that count every request; nothing else runs there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

import operator_process
from cluster.support.api import NAMESPACE, Api
from cluster.support.unharmed import tracebacks
from localcluster.cluster import Cluster
from localcluster.wait import wait_for
from operator_process import OperatorProcess
from vllm_operator.kinds import SERVICE_ACCOUNT


@dataclass(frozen=True, slots=True)
class Arena:
    """The control plane, with the CRD and the operator's rights installed, and the kubeconfig of its account."""

    cluster: Cluster
    account: Path

    @property
    def api(self) -> Api:
        """A fresh client as administrator: connections do not outlive an API server that is killed."""
        return Api(self.cluster.kubeconfig)


class Launch(Protocol):
    """Starts an operator with settings of the test's own and waits until it is ready."""

    def __call__(self, kubeconfig: Path | None = None, **settings: str) -> OperatorProcess: ...


@pytest.fixture(scope="session")
def arena() -> Iterator[Arena]:
    """A control plane beside the one of the run."""
    if os.environ.get("CLUSTER") == "kind":
        pytest.skip("needs the local control plane; run without CLUSTER=kind")
    started = Cluster.start(f"arena-{os.getpid()}", bound=True)
    operator_process.install(started.kubectl)
    yield Arena(started, started.kubeconfig_for(operator_process.ACCOUNT, operator_process.NAMESPACE))
    started.down()


# A controller-manager whose API server was killed looks for it ever more seldom.
_CONTROLLERS_SECONDS = 120.0


def make_namespace(api: Api) -> str:
    """Create a namespace and return its name."""
    name = f"arena-{secrets.token_hex(3)}"
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    wait_for(lambda: api.get(SERVICE_ACCOUNT, name, "default"), _CONTROLLERS_SECONDS, f"ServiceAccount of {name}")
    return name


@pytest.fixture
def arena_namespace(arena: Arena) -> Iterator[str]:
    """A namespace in the arena; it is deleted, without waiting, when the test ends."""
    name = make_namespace(arena.api)
    yield name
    arena.api.delete(NAMESPACE, "", name)


@pytest.fixture
def launch(arena: Arena, arena_namespace: str) -> Iterator[Launch]:
    """Start operators in the arena, one at a time. They must be alive at the end and must have met no bug of theirs."""
    started: list[OperatorProcess] = []

    def start(kubeconfig: Path | None = None, **settings: str) -> OperatorProcess:
        log = arena.cluster.folder / f"operator-{arena_namespace}-{len(started)}.log"
        process = OperatorProcess(kubeconfig or arena.account, log, settings)
        started.append(process)
        process.start()
        process.wait_ready()
        return process

    yield start
    for process in started:
        print(f"--- the operator's log ---\n{process.tail(lines=200)}")  # noqa: T201 - shown when the test fails
        assert process.alive, f"the operator ended by itself with {process.process.returncode}"
        assert process.stop() == 0
        assert tracebacks(process) == []
