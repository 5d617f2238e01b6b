"""Kubernetes Events about resources: said once, counted when they repeat, never in the way of a pass.

The name of an Event follows from what it says, so that two operators, or one that restarted, count the same Event up
instead of writing another. Its fields are those of core/v1 (https://kubernetes.io/docs/reference/kubernetes-api/
cluster-resources/event-v1/), which `kubectl describe` shows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from vllm_operator.api import API_VERSION, KIND
from vllm_operator.errors import OperatorError
from vllm_operator.naming import FIELD_MANAGER, digest

log = logging.getLogger(__name__)

_REPEAT_SECONDS = 600.0  # the same thing is said (counted up) at most this often
_NEVER = float("-inf")
_REMEMBERED = 4096  # Events and resources; the least recently used are forgotten first
# As client-go's spam filter does: a burst, then one per five minutes; per resource.
_BURST = 25
_REFILL_SECONDS = 300.0
_MAX_MESSAGE = 1024  # of a core/v1 Event, in bytes


class Subject(Protocol):
    """A resource, as far as an Event speaks of it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def namespace(self) -> str:
        """Its namespace."""

    @property
    def uid(self) -> str:
        """Its uid."""


class Api(Protocol):
    """What is needed of the API server; see `cluster.Cluster`."""

    async def create_event(self, namespace: str, event: dict[str, Any]) -> bool:
        """Create an Event; False when one of that name exists."""

    async def patch_event(self, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any] | None:
        """Merge a patch into an Event and return it; None when it has expired."""


@dataclass(slots=True)
class _Said:
    """When an Event was last written, and its count where that is known."""

    at: float
    count: int | None = None


@dataclass(slots=True)
class _Allowance:
    tokens: float
    since: float

    def take(self, now: float) -> bool:
        self.tokens = min(float(_BURST), self.tokens + (now - self.since) / _REFILL_SECONDS)
        self.since = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Recorder:
    """Writes Events. Failures to do so are logged and never raised: an Event is a courtesy."""

    def __init__(self, cluster: Api) -> None:
        self._cluster = cluster
        self._said: OrderedDict[str, _Said] = OrderedDict()  # by name of the Event
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()  # by uid of the resource

    async def record(self, resource: Subject, kind: str, reason: str, message: str) -> None:
        """Say something about a resource: `kind` is Normal or Warning, `reason` in CamelCase, `message` a sentence."""
        now = asyncio.get_running_loop().time()
        name = f"{resource.name[:230].rstrip('-.')}.{digest([resource.uid, reason, message], 16)}"
        said = self._may_say(name, resource.uid, now)
        if said is None:
            return
        try:
            await self._write(said, _event(resource, name, kind, reason, message))
        except OperatorError as error:
            said.at = _NEVER
            log.warning("event not recorded: %s", error, extra={"resource": f"{resource.namespace}/{resource.name}"})

    def _may_say(self, name: str, uid: str, now: float) -> _Said | None:
        said = self._said.setdefault(name, _Said(_NEVER))
        _trim(self._said, name)
        if now - said.at < _REPEAT_SECONDS:
            return None
        allowance = self._allowances.setdefault(uid, _Allowance(_BURST, now))
        _trim(self._allowances, uid)
        if not allowance.take(now):
            return None
        said.at = now
        return said

    async def _write(self, said: _Said, event: dict[str, Any]) -> None:
        """Create the Event, or count it up. After a restart its count is not known: the first answer tells it."""
        namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
        if said.count is None and await self._cluster.create_event(namespace, event):
            said.count = 1
            return
        patch = {"lastTimestamp": event["lastTimestamp"]}
        counted = patch if said.count is None else {**patch, "count": said.count + 1}
        live = await self._cluster.patch_event(namespace, name, counted)
        said.count = int(live.get("count") or 1) if live else None
        if live is None and await self._cluster.create_event(namespace, event):  # it had expired
            said.count = 1


def _trim(memory: OrderedDict[str, Any], used: str) -> None:
    memory.move_to_end(used)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)


def _shortened(message: str) -> str:
    """At most 1024 bytes, cut between characters."""
    if len(message.encode()) <= _MAX_MESSAGE:
        return message
    return message.encode()[: _MAX_MESSAGE - 3].decode(errors="ignore") + "..."


def _event(resource: Subject, name: str, kind: str, reason: str, message: str) -> dict[str, Any]:
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": resource.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": resource.name,
            "namespace": resource.namespace,
            "uid": resource.uid,
        },
        "type": kind,
        "reason": reason,
        "message": _shortened(message),
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
