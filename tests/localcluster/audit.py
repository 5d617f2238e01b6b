"""What the API server wrote down about every request: who asked what, and how it ended."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One line of the audit log (audit.k8s.io/v1 Event), the parts that tests ask about by name, `raw` in full."""

    user: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    uri: str
    user_agent: str
    stage: str
    received: str
    raw: dict[str, Any]

    @property
    def is_write(self) -> bool:
        """Whether the request changes objects; a dry run does not."""
        return self.verb in _WRITES and "dryRun=" not in self.uri


def read(path: Path, since: int = 0) -> Iterator[AuditEvent]:
    """Yield the events after byte `since` of the audit log at `path`; a line that is still being written is left."""
    with path.open("rb") as log:
        log.seek(since)
        for line in log:
            if line.endswith(b"\n"):
                yield event(json.loads(line))


def event(raw: dict[str, Any]) -> AuditEvent:
    """Return the event that a decoded line of the audit log is."""
    reference = raw.get("objectRef") or {}
    return AuditEvent(
        user=raw["user"].get("username", ""),
        verb=raw["verb"],
        resource=reference.get("resource", ""),
        subresource=reference.get("subresource", ""),
        namespace=reference.get("namespace", ""),
        name=reference.get("name", ""),
        code=(raw.get("responseStatus") or {}).get("code", 0),
        uri=raw["requestURI"],
        user_agent=raw.get("userAgent", ""),
        stage=raw["stage"],
        received=raw["requestReceivedTimestamp"],
        raw=raw,
    )
