"""What a pass needs of the outside world, as protocols: the API server, a place for Events, somebody who counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

from vllm_operator.api.parse import Resource
from vllm_operator.kinds import Kind
from vllm_operator.naming import FIELD_MANAGER, Key

Object = dict[str, Any]
Objects = list[Object]


class Api(Protocol):
    """What a pass needs of the API server; see `cluster.Cluster`."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """A live object."""

    async def get_metadata(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The metadata of a live object."""

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Objects:
        """All objects of a kind."""

    def each(self, kind: Kind) -> AsyncIterator[Object]:
        """All objects of a kind, one after the other."""

    async def names(self, kind: Kind, selector: str = "", namespace: str | None = None) -> set[tuple[str, str]]:
        """Namespace and name of every object of a kind."""

    async def apply(
        self, manifest: Object, manager: str = FIELD_MANAGER, *, new: bool = False, dry_run: bool = False
    ) -> Object:
        """Server-side apply; with `new`, of what is not there yet."""

    async def apply_alone(self, manifest: Object) -> Object:
        """Server-side apply that removes what others put into the lists of `spec`."""

    async def apply_status(self, namespace: str, name: str, status: Object) -> Object:
        """Server-side apply of a resource's status."""

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server knows a kind."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> bool:
        """Delete one very object."""

    async def pod_log(self, namespace: str, pod: str, container: str, *, previous: bool, lines: int) -> str:
        """The last lines of a container's log."""

    async def events_about(self, namespace: str, uid: str) -> Objects:
        """Events about one object."""


class Events(Protocol):
    """Where Kubernetes Events go; see `recorder.Recorder`."""

    async def record(self, resource: Resource, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Tell the user something, once."""


class Meter(Protocol):
    """Who counts what passes do and find; see `telemetry.Telemetry`."""

    def applied(self, kind: Kind, *, changed: bool) -> None:
        """An object was applied; the resource version tells whether that changed it."""

    def stands(self, key: Key, status: Object) -> None:
        """What is true of a resource by now."""

    def forget(self, key: Key) -> None:
        """A resource is gone."""


class Unmetered:
    """Nobody counts."""

    def applied(self, kind: Kind, *, changed: bool) -> None:
        """As `Meter`."""

    def stands(self, key: Key, status: Object) -> None:
        """As `Meter`."""

    def forget(self, key: Key) -> None:
        """As `Meter`."""
