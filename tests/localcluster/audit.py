"""What the API server wrote down about every request: who asked what, and how it ended."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})

_LONGEST_LINE = 2**20  # bytes; with metadata only they have some hundreds
_BEGIN = b'{"kind":"Event"'


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


def mark(path: Path) -> int:
    """Return where the last whole line ends: one that is still being written belongs to what follows."""
    with path.open("rb") as log:
        start = max(0, log.seek(0, os.SEEK_END) - _LONGEST_LINE)
        log.seek(start)
        return start + log.read().rfind(b"\n") + 1


def read(path: Path, since: int = 0) -> Iterator[AuditEvent]:
    """Yield the events after byte `since` of the audit log at `path`; a line that is still being written is left."""
    with path.open("rb") as log:
        log.seek(since)
        for line in log:
            if line.endswith(b"\n"):
                yield decoded(line)


def decoded(line: bytes) -> AuditEvent:
    """Return the event of a whole line, which may follow what an API server that was killed left of another."""
    try:
        return event(json.loads(line))
    except json.JSONDecodeError:
        return event(json.loads(line[line.rindex(_BEGIN) :]))


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
