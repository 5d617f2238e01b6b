"""What the operator asked of the API server, by the API server's own audit log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from localcluster import audit
from localcluster.audit import AuditEvent
from localcluster.cluster import Cluster
from operator_process import USER

_CALM_POLL_SECONDS = 0.25


@dataclass(slots=True)
class Traffic:
    """The operator's requests since a moment, watches left out."""

    cluster: Cluster
    since: int = -1

    def __post_init__(self) -> None:
        if self.since < 0:
            self.since = self.cluster.audit_mark()

    def requests(self) -> list[AuditEvent]:
        """Return every request that was answered."""
        events = self.cluster.audit_events(USER, self.since)
        return [event for event in events if event.verb != "watch" and event.stage == "ResponseComplete"]

    def writes(self, namespace: str = "") -> list[AuditEvent]:
        """Return the requests that were to change something, in one namespace or in all."""
        return [one for one in self.requests() if one.is_write and namespace in ("", one.namespace)]

    def counts(self, namespace: str = "") -> Counter[str]:
        """Return how often what was asked: `patch deployments`, `patch vllmdeployments/status`.

        With a namespace the requests in others are left out, and not those that are in none.
        """
        asked = self.requests()
        return Counter(in_words(one) for one in asked if not namespace or one.namespace in ("", namespace))


def in_words(event: AuditEvent) -> str:
    """Return the verb and the resource of a request."""
    return f"{event.verb} {event.resource}{'/' + event.subresource if event.subresource else ''}"


def await_calm(cluster: Cluster, seconds: float, timeout: float = 60.0) -> None:
    """Wait until the operator has asked nothing for so many seconds."""
    deadline = time.monotonic() + timeout
    traffic, calm_since = Traffic(cluster), time.monotonic()
    while time.monotonic() - calm_since < seconds:
        time.sleep(_CALM_POLL_SECONDS)
        if asked := traffic.counts():
            traffic, calm_since = Traffic(cluster), time.monotonic()
            assert time.monotonic() < deadline, f"the operator does not come to rest: {dict(asked)}"


class Tail:
    """Follows the operator's writes as they come, for a test that acts on the n-th of them about one resource."""

    def __init__(self, cluster: Cluster, resource: str) -> None:
        self._log = cluster.layout.audit_log
        self._read = cluster.audit_mark()
        self._resource = resource
        self.seen: list[str] = []

    def poll(self) -> int:
        """Read on, and return the number of writes so far to the resource and to what is named after it."""
        for one in self._new():
            mine = one.user == USER and one.name.startswith(self._resource)
            if mine and one.is_write and one.stage == "ResponseComplete":
                self.seen.append(in_words(one))
        return len(self.seen)

    def _new(self) -> Iterator[AuditEvent]:
        """Decode the lines that are complete by now."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        complete = text.rfind(b"\n") + 1
        self._read += complete
        for line in text[:complete].splitlines():
            yield audit.decoded(line)
