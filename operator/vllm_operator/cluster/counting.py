"""Requests in the words of RBAC and of the audit log, for whoever counts them."""

from __future__ import annotations

from typing import Protocol

DISCOVERY = "discovery"
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_API_PARTS, _APIS_PARTS = (
    3,
    4,
)  # of "/api/v1/..." and "/apis/GROUP/VERSION/...", counting what is before the first slash


class OnCall(Protocol):
    """Hears of every request: its verb and resource, the HTTP code, or `error` when no answer came, and seconds."""

    def __call__(self, verb: str, resource: str, code: str, seconds: float, /) -> None:
        """A request has ended."""


def verb_and_resource(method: str, path: str) -> tuple[str, str]:
    """What RBAC calls a request, as ("patch", "vllmdeployments/status"); asking what is served is DISCOVERY."""
    parts = path.split("/")
    parts = parts[_APIS_PARTS if parts[1] == "apis" else _API_PARTS :]
    if parts[:1] == ["namespaces"]:
        parts = parts[2:]
    plural, name, subresource = (*parts, "", "", "")[:3]
    verb = _VERBS.get(method) or ("get" if name or not plural else "list")
    return verb, f"{plural}/{subresource}" if subresource else plural or DISCOVERY
