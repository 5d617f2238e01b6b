"""A control plane of its own, an operator on it, and resources that are all alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import operator_process
from bench import bare
from localcluster import nodes
from localcluster.audit import AuditEvent
from localcluster.cluster import Cluster as LocalCluster
from operator_process import USER, OperatorProcess
from scraping import scrape
from vllm_operator import kinds
from vllm_operator.api import API_VERSION, KIND
from vllm_operator.cluster import Cluster
from vllm_operator.naming import MANAGED_SELECTOR

Object = dict[str, Any]
NAMESPACE, BARE_NAMESPACE = "bench-operator", "bench-bare"
USERS_MANAGER = "bench"  # of the fields that a user sets
# At most so many writes as the API server takes: what is measured is the operator and not its brake.
_UNBRAKED = {"writes_per_second": "10000", "burst": "10000"}
_ELECTED = {"leader_elect": "true", "lease_namespace": operator_process.NAMESPACE}
_TICKS = os.sysconf("SC_CLK_TCK")
_LEASES = "leases"
_LOOK_SECONDS = 0.25
_COMMIT = "0123456789abcdef0123456789abcdef01234567"
# No claim and no preload Job: servers download for themselves.
EPHEMERAL: Object = {"cache": {"ephemeral": True}}


def resource(index: int, namespace: str = NAMESPACE, **fields: Any) -> Object:  # noqa: ANN401 - of the spec
    """One of many alike: claim, preload Job, ServiceAccount, Service and Deployment."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": f"bench-{index}", "namespace": namespace},
        "spec": {
            "model": {"source": "hf://Qwen/Qwen2.5-7B-Instruct", "maxLength": 8192, "revision": _COMMIT},
            "gpu": {"product": "NVIDIA-GeForce-RTX-4090", "count": 1},
            **fields,
        },
    }


@dataclass(slots=True)
class Scene:
    """What is measured, and how to look at it."""

    local: LocalCluster
    client: Cluster
    operator: OperatorProcess
    fields: Object = field(default_factory=dict)  # of every spec

    def resource(self, index: int, namespace: str = NAMESPACE) -> Object:
        """One of many alike, as `resource` with the scene's fields."""
        return resource(index, namespace, **self.fields)

    def changed(self, index: int, sequences: int) -> Object:
        """The resource with another limit for its server, so that its Deployment changes and nothing else."""
        return resource(index, **self.fields, engine={"maxSequences": sequences})

    async def apply(self, one: Object) -> None:
        """Write a resource as a user does."""
        await self.client.apply(one, USERS_MANAGER)

    def empty(self) -> None:
        """Remove what was made: a control plane that holds more is slower."""
        self.local.kubectl("delete", "namespace", BARE_NAMESPACE, NAMESPACE, timeout=1800)
        for namespace in (BARE_NAMESPACE, NAMESPACE):
            self.local.kubectl("create", "namespace", namespace)

    async def until_counted(self, count: int, pause: float = _LOOK_SECONDS, **labels: str) -> None:
        """Wait until the operator counts so many resources; `labels` of its metric: phase, reason."""
        while True:
            if scrape(self.operator.port).total("resources", **labels) >= count:
                return
            await asyncio.sleep(pause)

    async def until_ready(self, count: int) -> None:
        """Wait until so many resources are Ready; they are listed once, because that burdens what is measured."""
        await self.until_counted(count, bare.pause(count), phase="Ready")
        listed = await self.client.list(kinds.RESOURCE, NAMESPACE)
        ready = sum(one["status"]["phase"] == "Ready" for one in listed)
        assert ready >= count, f"the operator counts {count} that are Ready, and there are {ready}"

    async def until_calm(self, seconds: float = 3.0) -> None:
        """Wait until the operator has asked for nothing for so long."""
        while True:
            mark = self.local.audit_mark()
            await asyncio.sleep(seconds)
            if not self.requests(mark):
                return

    async def versions(self) -> dict[str, str]:
        """Resource versions of all resources and children."""
        found: dict[str, str] = {}
        for kind in (kinds.RESOURCE, *(one for one in kinds.CHILDREN if not one.optional)):
            selector = "" if kind is kinds.RESOURCE else MANAGED_SELECTOR
            for one in await self.client.list(kind, NAMESPACE, selector):
                found[f"{kind} {one['metadata']['name']}"] = one["metadata"]["resourceVersion"]
        return found

    def requests(self, mark: int) -> list[AuditEvent]:
        """The operator's requests that were answered since; watches and the Lease are left out."""
        events = self.local.audit_events(USER, mark)
        answered = (one for one in events if one.stage == "ResponseComplete" and one.verb != "watch")
        return [one for one in answered if one.resource != _LEASES]

    def renewals(self, mark: int) -> int:
        """How often the Lease was written since."""
        events = self.local.audit_events(USER, mark)
        return sum(one.resource == _LEASES and one.is_write for one in events)

    @property
    def cpu_seconds(self) -> float:
        """CPU that the operator has used (proc_pid_stat(5): utime and stime)."""
        text = Path(f"/proc/{self.operator.process.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mib(self, field: str = "VmRSS") -> float:
        """Resident memory of the operator: now, or with `VmHWM` at most so far (proc_pid_status(5))."""
        lines = Path(f"/proc/{self.operator.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def answered(event: AuditEvent) -> float:
    """When a request was answered, in seconds since the epoch."""
    return datetime.fromisoformat(event.raw["stageTimestamp"]).timestamp()


@contextmanager
def control_plane(name: str, gpus: int) -> Iterator[tuple[LocalCluster, OperatorProcess]]:
    """A control plane with so many GPUs, with the CRD and an operator that is not started yet."""
    local = LocalCluster.start(f"{name}-{os.getpid()}", bound=True)
    try:
        for namespace in (BARE_NAMESPACE, NAMESPACE):
            local.kubectl("create", "namespace", namespace)
        local.add_nodes(nodes.scale_nodes(gpus))
        operator_process.install(local.kubectl)
        account = local.kubeconfig_for(operator_process.ACCOUNT, operator_process.NAMESPACE)
        yield local, OperatorProcess(account, local.folder / "operator.log", {**_UNBRAKED, **_ELECTED})
    finally:
        local.down()
