"""The same access to a kind cluster: simulated GPU nodes beside its own, which take no pods meanwhile."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from localcluster import build, components, kwok, nodes, processes
from localcluster.access import ClusterAccess
from localcluster.audit import AuditEvent
from localcluster.errors import LocalClusterError
from localcluster.kubectl import Kubectl
from localcluster.processes import Process

CONTEXT_PREFIX = "kind-"
_CLUSTER_NAME = "vllm-operator"
_SIMULATED = "=".join(nodes.SIMULATED_LABEL)
_CREATE_TIMEOUT_SECONDS = 600
_LOCAL_ONLY = "needs the local control plane; run the test without CLUSTER=kind"


class KindUnavailableError(LocalClusterError):
    """There is no kind cluster and none can be made here; a test that asked for one skips."""


class KindCluster(ClusterAccess):
    """A kind cluster in which kwok plays GPU nodes; `close` leaves it as it was found."""

    def __init__(self, kubectl: Kubectl) -> None:
        super().__init__(kubectl)
        self._own_nodes: list[str] = []
        self._own_class: dict[str, Any] | None = None
        self._kwok: Process | None = None

    @classmethod
    def open(cls) -> "KindCluster":
        """Use the kubeconfig's current context if it is a kind cluster, else make one.

        Raises:
            KindUnavailableError: the context is another one, and there is no kind or no Docker to make a cluster.
        """
        context = _current_context() or _create()
        cluster = cls(_bound_kubectl(context))
        try:
            cluster._prepare()
        except BaseException:
            cluster.close()
            raise
        return cluster

    def _prepare(self) -> None:
        self._delete_nodes(_SIMULATED)  # a run that was killed may have left some
        self._own_nodes = [node["metadata"]["name"] for node in self.kubectl.items("nodes")]
        self.kubectl("cordon", *self._own_nodes)
        self._replace_storage_classes()
        config, program = self.folder / "kwok.yaml", build.ensure(("kwok",))["kwok"]
        kwok.write_config(config)
        command = [str(program), *components.kwok_arguments(self.kubeconfig, config)]
        self._kwok = processes.spawn(command, self.folder / "kwok.log", self.folder, die_with_parent=True)
        self.add_nodes(nodes.fleet())

    @property
    def folder(self) -> Path:
        return self.kubectl.home

    def restart(self, component: str) -> None:
        raise LocalClusterError(f"restarting {component} {_LOCAL_ONLY}")

    def kill(self, component: str) -> None:
        raise LocalClusterError(f"killing {component} {_LOCAL_ONLY}")

    def audit_mark(self) -> int:
        raise LocalClusterError(f"reading the audit log {_LOCAL_ONLY}")

    def audit_events(self, user: str | None = None, since: int = 0) -> Iterator[AuditEvent]:
        raise LocalClusterError(f"reading the audit log of user {user} since {since} {_LOCAL_ONLY}")

    def close(self) -> None:
        """End kwok, remove the simulated nodes and put back what was replaced."""
        if self._kwok is not None:
            self._kwok.kill()
        self._delete_nodes(_SIMULATED)
        if self._own_nodes:
            self.kubectl("uncordon", *self._own_nodes)
        if self._own_class is not None:
            self.kubectl("replace", "--force", "--filename=-", input=self._own_class)
        shutil.rmtree(self.folder)

    def _replace_storage_classes(self) -> None:
        """Install the simulated classes, in the place of kind's own `standard`, whose provisioner is immutable."""
        classes = kwok.storage_classes()
        names = [item["metadata"]["name"] for item in classes]
        ours = {item["provisioner"] for item in classes}
        for item in self.kubectl.items("storageclasses"):
            if item["metadata"]["name"] in names and item["provisioner"] not in ours:
                self._own_class = _recreatable(item)
        self.kubectl("delete", "storageclass", "--ignore-not-found", *names)
        self.kubectl("create", "--filename=-", input=classes)


def _bound_kubectl(context: str) -> Kubectl:
    """Return a kubectl on a copy of the kubeconfig with this context only, whatever the user switches to meanwhile."""
    program = build.ensure(("kubectl",))["kubectl"]
    folder = Path(tempfile.mkdtemp(prefix="localcluster-kind-"))
    view = Kubectl(program, _user_kubeconfig(), context, folder)("config", "view", "--minify", "--flatten", "--raw")
    kubeconfig = folder / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(view.stdout)
    return Kubectl(program, kubeconfig, context, folder)


def _recreatable(item: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: item["metadata"].get(key) for key in ("name", "labels", "annotations")}
    return item | {"metadata": {key: value for key, value in metadata.items() if value}}


def _user_kubeconfig() -> Path:
    return Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")


def _current_context() -> str | None:
    program = build.ensure(("kubectl",))["kubectl"]
    command = [str(program), f"--kubeconfig={_user_kubeconfig()}", "config", "current-context"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return answer if answer.startswith(CONTEXT_PREFIX) else None


def _create() -> str:
    missing = [program for program in ("kind", "docker") if shutil.which(program) is None]
    if missing:
        raise KindUnavailableError(
            f"CLUSTER=kind: the current context is not {CONTEXT_PREFIX}* and there is no {' and no '.join(missing)} "
            "on PATH to make a cluster; install it, or switch to a kind context"
        )
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        raise KindUnavailableError("CLUSTER=kind: Docker does not answer; start it, or switch to a kind context")
    command = ["kind", "create", "cluster", "--name", _CLUSTER_NAME, "--wait", "120s"]
    subprocess.run(command, check=True, timeout=_CREATE_TIMEOUT_SECONDS)
    return CONTEXT_PREFIX + _CLUSTER_NAME
