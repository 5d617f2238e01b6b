"""What a user of the API server did, by its audit log, beside what a ClusterRole lets him do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from localcluster.audit import AuditEvent


class Right(NamedTuple):
    """One verb on one kind of resource, as RBAC names them."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


def granted(rules: Iterable[dict[str, Any]]) -> set[Right]:
    """Return every single right that the rules of a role hold."""
    return {
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _rights(event: AuditEvent) -> Iterator[Right]:
    group = event.raw["objectRef"].get("apiGroup", "")
    resource = f"{event.resource}/{event.subresource}" if event.subresource else event.resource
    yield Right(group, resource, event.verb)
    # A server-side apply of what is not there is a patch to the audit log; the API server asks for both rights.
    if event.verb == "patch" and event.code == 201:
        yield Right(group, resource, "create")


def used(events: Iterable[AuditEvent]) -> set[Right]:
    """Return the rights that requests made use of, also to no effect (404); discovery, which everybody may, is none."""
    return {right for event in events if event.resource and event.code not in (401, 403) for right in _rights(event)}


def denied(events: Iterable[AuditEvent]) -> list[str]:
    """Return what RBAC refused, in the API server's words; quotas and admission refuse in others."""
    messages = ((event.raw.get("responseStatus") or {}).get("message", "") for event in events if event.code == 403)
    return sorted({message for message in messages if "cannot" in message and "in API group" in message})
