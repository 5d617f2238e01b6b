"""What an API server's refusal means to the control loop.

The shapes are those of Status objects:
https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from vllm_operator.errors import Blocked, Conflict, Gone, OperatorError, Transient

_DENIED = re.compile(r'cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"')


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is not a success: HTTP code, headers and, where the server sent one, its Status object."""

    call: str
    code: int
    headers: Mapping[str, str]
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The server's own words."""
        return str(self.status.get("message") or f"the API server answered {self.code}")

    @property
    def about(self) -> str:
        """Plural of the kind that the refusal speaks of; empty when the server knows no such kind."""
        return str((self.status.get("details") or {}).get("kind") or "")

    def caused_by(self, reason: str) -> bool:
        """Whether one of the machine-readable causes is `reason`."""
        causes = (self.status.get("details") or {}).get("causes") or ()
        return any(cause.get("reason") == reason for cause in causes)

    @property
    def is_failure(self) -> bool:
        """Whether the server as a whole fails, or has too much to do, instead of refusing this very request."""
        fails = self.code >= HTTPStatus.INTERNAL_SERVER_ERROR and isinstance(_server_error(self), Transient)
        return fails or self.code == HTTPStatus.TOO_MANY_REQUESTS

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait."""
        asked = self.headers.get("Retry-After") or (self.status.get("details") or {}).get("retryAfterSeconds")
        try:
            return float(asked) if asked else None
        except ValueError:  # an HTTP date: our own back-off will do
            return None


def refusal(call: str, code: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """Read an unsuccessful answer; a body that is no Status object is dropped (it may come from a proxy)."""
    try:
        status = json.loads(body)
    except ValueError:
        status = {}
    is_status = isinstance(status, dict) and status.get("kind") == "Status"
    return Refusal(call, code, headers, status if is_status else {})


def _missing(answer: Refusal) -> OperatorError:
    if answer.about == "namespaces" or (answer.status.get("details") or {}).get("name"):
        return Gone(answer.message)
    return Blocked("CRDNotInstalled", f"The API server does not serve this kind ({answer.call}): install its CRD.")


def _forbidden(answer: Refusal) -> OperatorError:
    if answer.caused_by("NamespaceTerminating"):
        # The namespace takes everything along, the resource too: there is nobody left to tell.
        return Gone("The namespace is being deleted: nothing can be created in it.")
    if "exceeded quota" in answer.message:
        return Blocked("QuotaExceeded", answer.message)
    if "status unknown for quota" in answer.message:  # a new quota, which nobody has counted yet
        return Transient(f"{answer.call}: {answer.message}")
    if denied := _DENIED.search(answer.message):
        verb, resource, group = denied.group("verb", "resource", "group")
        what = f"{resource}.{group}" if group else resource
        return Blocked("Forbidden", f"The operator may not {verb} {what}: grant its service account that verb.")
    return Blocked("Rejected", answer.message)


def _server_error(answer: Refusal) -> OperatorError:
    # An admission webhook of somebody else that fails closed does not heal by asking faster.
    if "failed calling webhook" in answer.message:
        return Blocked("WebhookFailed", answer.message)
    # A server-side apply with an unknown field, or a value of the wrong type, is answered with 500.
    if "failed to create typed patch object" in answer.message:
        return Blocked("Rejected", answer.message)
    return Transient(f"{answer.call}: {answer.message}", answer.retry_after)


def to_error(answer: Refusal) -> OperatorError:
    """The error of this project that says what to do about a refusal."""
    match answer.code:
        case HTTPStatus.NOT_FOUND:
            return _missing(answer)
        case HTTPStatus.FORBIDDEN:
            return _forbidden(answer)
        case HTTPStatus.CONFLICT:
            return Conflict(f"{answer.call}: {answer.message}")
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.REQUEST_TIMEOUT | HTTPStatus.GONE | HTTPStatus.TOO_MANY_REQUESTS:
            return Transient(f"{answer.call}: {answer.message}", answer.retry_after)
        case code if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _server_error(answer)
        case _:
            return Blocked("Rejected", answer.message)
