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

CONTEXT_PREFIX = "kind-"
_CLUSTER_NAME = "vllm-operator"
_CREATE_TIMEOUT_SECONDS = 600
_LOCAL_ONLY = "needs the local control plane; run the test without CLUSTER=kind"


class KindUnavailableError(LocalClusterError):
    """There is no kind cluster and none can be made here; a test that asked for one skips."""


class KindCluster(ClusterAccess):
    """A kind cluster in which kwok plays GPU nodes; `close` leaves it as it was found."""

    def __init__(self, context: str, user_kubeconfig: Path) -> None:
        programs = build.ensure(("kubectl", "kwok"))
        self._folder = Path(tempfile.mkdtemp(prefix="localcluster-kind-"))
        kubeconfig = self._folder / "kubeconfig"
        kubeconfig.touch(mode=0o600)
        # A copy with this context only: whatever the user switches to meanwhile, the tests stay here.
        view = Kubectl(programs["kubectl"], user_kubeconfig, context, self._folder)(
            "config", "view", "--minify", "--flatten", "--raw"
        )
        kubeconfig.write_text(view.stdout)
        super().__init__(Kubectl(programs["kubectl"], kubeconfig, context, self._folder))
        self._own_nodes = [node["metadata"]["name"] for node in self.kubectl.items("nodes", _not_simulated())]
        self._replaced_class = self._replace_storage_classes()
        self._remove_simulated_nodes()  # a run that was killed may have left some
        self.kubectl("cordon", *self._own_nodes)
        kwok.write_config(self._folder / "kwok.yaml")
        arguments = components.kwok_arguments(kubeconfig, self._folder / "kwok.yaml")
        command = [str(programs["kwok"]), *arguments]
        self._kwok = processes.spawn(command, self._folder / "kwok.log", self._folder, die_with_parent=True)
        self.add_nodes(nodes.fleet())

    @classmethod
    def open(cls) -> "KindCluster":
        """Use the kubeconfig's current context if it is a kind cluster, else make one.

        Raises:
            KindUnavailableError: the context is another one, and there is no kind or no Docker to make a cluster.
        """
        return cls(_current_context() or _create(), _user_kubeconfig())

    @property
    def folder(self) -> Path:
        return self._folder

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
        self._remove_simulated_nodes()
        self._kwok.kill()
        self.kubectl("uncordon", *self._own_nodes)
        if self._replaced_class is not None:
            self.kubectl("replace", "--force", "--filename=-", input=self._replaced_class)
        shutil.rmtree(self._folder)

    def _remove_simulated_nodes(self) -> None:
        self.kubectl("delete", "node", f"--selector={'='.join(nodes.SIMULATED_LABEL)}")

    def _replace_storage_classes(self) -> dict[str, Any] | None:
        """Install the simulated classes; return kind's own class of the same name, whose provisioner is immutable."""
        classes = kwok.storage_classes()
        ours = {item["metadata"]["name"]: item["provisioner"] for item in classes}
        foreign = [
            item
            for item in self.kubectl.items("storageclass")
            if ours.get(item["metadata"]["name"], item["provisioner"]) != item["provisioner"]
        ]
        self.kubectl("delete", "storageclass", "--ignore-not-found", *ours)
        self.kubectl("create", "--filename=-", input=classes)
        return _recreatable(foreign[0]) if foreign else None


def _recreatable(item: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: item["metadata"].get(key) for key in ("name", "labels", "annotations")}
    return item | {"metadata": {key: value for key, value in metadata.items() if value}}


def _not_simulated() -> str:
    return f"--selector={'!='.join(nodes.SIMULATED_LABEL)}"


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
