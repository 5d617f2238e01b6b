"""One Lease, as `lease.Election` wants it kept (coordination.k8s.io/v1)."""

from __future__ import annotations

from typing import Any

from vllm_operator.cluster.client import Cluster
from vllm_operator.kinds import LEASE
from vllm_operator.lease import Record


class LeaseStore:
    """Keeps a Lease in the API server; see `lease.Store`. What others wrote into the object stays as it is."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self._cluster = cluster
        self._ref = {"namespace": namespace, "name": name}
        self._live: dict[str, Any] = {}

    async def get(self) -> Record | None:
        """The Lease; None when there is none."""
        found = await self._cluster.get(LEASE, **self._ref)
        return self._seen(found) if found else None

    async def create(self, record: Record) -> Record:
        """Make the Lease; Conflict when there is one."""
        return self._seen(await self._cluster.create(self._manifest(self._ref, _spec(record))))

    async def replace(self, record: Record) -> Record:
        """Overwrite the Lease; Conflict unless it still has the record's version."""
        metadata = {**(self._live.get("metadata") or {}), **self._ref, "resourceVersion": record.version}
        spec = {**(self._live.get("spec") or {}), **_spec(record)}
        return self._seen(await self._cluster.replace(self._manifest(metadata, spec)))

    @staticmethod
    def _manifest(metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}

    def _seen(self, live: dict[str, Any]) -> Record:
        self._live = live
        spec = live.get("spec") or {}
        return Record(
            holder=spec.get("holderIdentity") or "",
            duration=int(spec.get("leaseDurationSeconds") or 0),
            transitions=int(spec.get("leaseTransitions") or 0),
            acquired=spec.get("acquireTime") or "",
            renewed=spec.get("renewTime") or "",
            version=live["metadata"]["resourceVersion"],
        )


def _spec(record: Record) -> dict[str, Any]:
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.duration,
        "leaseTransitions": record.transitions,
        "acquireTime": record.acquired,
        "renewTime": record.renewed,
    }
