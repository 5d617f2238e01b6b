"""Events about an object, asked for sparingly: for each asking the API server reads all Events of the namespace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

# Nobody asks again for so many times what the last asking took: where a thousand pods wait because the API server is
# busy, to ask why would keep it so.
_REST = 10.0


class Api(Protocol):
    """What is needed of the API server; see `cluster.Cluster`."""

    async def events_about(self, namespace: str, uid: str) -> Sequence[Mapping[str, Any]]:
        """Events about one object."""


class Inquiry:
    """Asks about one object at a time."""

    def __init__(self, cluster: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._rest_until = float("-inf")

    async def events(self, namespace: str, uid: str, *, urgent: bool = False) -> Sequence[Mapping[str, Any]] | None:
        """Events about the object of that uid; None while it is better not to ask.

        What is `urgent` is asked for at all times; it must be rare. Raises the errors of the client.
        """
        if urgent:
            return await self._cluster.events_about(namespace, uid)
        began = self._clock()
        if began < self._rest_until:
            return None
        self._rest_until = float("inf")
        try:
            return await self._cluster.events_about(namespace, uid)
        finally:
            ended = self._clock()
            self._rest_until = ended + _REST * (ended - began)
