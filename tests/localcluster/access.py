"""What tests do with any cluster, the local control plane or kind."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from localcluster import kubeconfigs
from localcluster.audit import AuditEvent
from localcluster.kubectl import Kubectl
from localcluster.nodes import Manifest
from localcluster.wait import wait_for

_ACCESS_DURATION = "24h"
_NODES_DEADLINE_SECONDS = 60.0


class ClusterAccess(ABC):
    """A throw-away cluster: its kubeconfig, its kubectl, and what only some clusters can do."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.kubectl.kubeconfig

    @property
    def context(self) -> str:
        """The name of the kubeconfig's only context."""
        return self.kubectl.context

    @property
    @abstractmethod
    def folder(self) -> Path:
        """A folder for files about this cluster, removed with it."""

    @abstractmethod
    def restart(self, component: str) -> None:
        """Kill a component of the control plane, start it again and wait until it is ready."""

    @abstractmethod
    def kill(self, component: str) -> None:
        """Kill a component of the control plane."""

    @abstractmethod
    def audit_mark(self) -> int:
        """Return the present end of the audit log, for `audit_events(since=...)`."""

    @abstractmethod
    def audit_events(self, user: str | None = None, since: int = 0) -> Iterator[AuditEvent]:
        """Yield what the API server logged after the mark `since`, of one user or of all."""

    def kubeconfig_for(self, service_account: str, namespace: str) -> Path:
        """Write a kubeconfig with a fresh token of a service account, and return its path.

        Raises:
            KubectlError: the service account does not exist.
        """
        created = self.kubectl(
            "create", "token", service_account, f"--namespace={namespace}", f"--duration={_ACCESS_DURATION}"
        )
        view = self.kubectl.json("config", "view", "--minify", "--flatten", "--raw")
        path = self.folder / f"{namespace}.{service_account}.kubeconfig"
        return kubeconfigs.write(path, self.context, view["clusters"][0]["cluster"], created.stdout.strip())

    def add_nodes(self, nodes: Sequence[Manifest]) -> None:
        """Create simulated nodes (see localcluster.nodes) and wait until they are Ready."""
        self.kubectl("create", "--validate=false", "--filename=-", input=nodes)
        wanted = {node["metadata"]["name"] for node in nodes}
        wait_for(
            lambda: wanted <= self._ready_nodes(), _NODES_DEADLINE_SECONDS, f"nodes Ready: {', '.join(sorted(wanted))}"
        )

    def remove_nodes(self, nodes: Sequence[Manifest]) -> None:
        """Delete nodes that `add_nodes` created."""
        names = ",".join(node["metadata"]["name"] for node in nodes)
        self._delete_nodes(f"kubernetes.io/hostname in ({names})")

    def _delete_nodes(self, selector: str) -> None:
        # One call for all: kubectl slows itself down to ten deletes a second.
        self.kubectl("delete", "--raw", f"/api/v1/nodes?labelSelector={quote(selector)}")

    def _ready_nodes(self) -> set[str]:
        return {
            node["metadata"]["name"]
            for node in self.kubectl.items("nodes")
            for condition in node["status"].get("conditions", [])
            if (condition["type"], condition["status"]) == ("Ready", "True")
        }
