"""Why a fetch cannot go on, and how the client's exceptions tell it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vllm_operator.errors import OperatorError
from vllm_operator.report import TRANSIENT, Reason

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNAUTHORIZED, _FORBIDDEN, _MISSING = 401, 403, 404
_CREDENTIALS = re.compile(r"//[^/@\s]+@")


class FetchError(OperatorError):
    """A fetch cannot go on; the text is one sentence with the way out."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def passes(self) -> bool:
        """Whether it may pass by itself."""
        return self.reason in TRANSIENT


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of which hub; `token` is None without one."""

    repository: str
    revision: str
    endpoint: str
    token: str | None = None

    @property
    def hub(self) -> str:
        """The endpoint, as it may be shown."""
        return self.scrub(self.endpoint)

    def scrub(self, text: str) -> str:
        """The text without the token, and without passwords in addresses."""
        text = text.replace(self.token, "***") if self.token else text
        return _CREDENTIALS.sub("//***@", text)


def explain(error: Exception, asked: Request) -> FetchError:
    """The failure that an exception of the client or of the file system stands for."""
    found = next((explained for kind, explained in _EXPLAINED if isinstance(error, kind)), None)
    if isinstance(error, FetchError):
        return error
    if found:
        return found(asked)
    if isinstance(error, HfHubHTTPError):
        return _by_status(error, asked)
    return _by_errno(error, asked) if isinstance(error, OSError) else _unreachable(error, asked)


def _by_errno(error: OSError, asked: Request) -> FetchError:
    """The failure that an error of the file system stands for."""
    where, what = error.filename or "the cache", error.strerror or type(error).__name__
    if error.errno in _FULL:
        message = f"The volume of {where} is full before all of {asked.repository} is there: give the cache more room."
        return FetchError(Reason.SPACE, message)
    user = os.getuid()
    message = f"{where} cannot be written ({what}): mount the cache writable for user {user}, or name another one."
    return FetchError(Reason.CACHE, message)


def _by_status(error: HfHubHTTPError, asked: Request) -> FetchError:
    status = error.response.status_code
    if status in {_UNAUTHORIZED, _FORBIDDEN} and asked.token:
        does = "does not know the token given for" if status == _UNAUTHORIZED else "does not let the token read"
        message = f"{asked.hub} {does} {asked.repository} ({status})"
        return FetchError(Reason.TOKEN, f"{message}: put a valid token with read access into the Secret or HF_TOKEN.")
    if status in {_UNAUTHORIZED, _FORBIDDEN, _MISSING}:
        return _not_found(asked)
    return FetchError(Reason.HUB, f"{asked.hub} answers {status} for {asked.repository}: it is tried again later.")


def _gated(asked: Request) -> FetchError:
    page = f"{asked.hub}/{asked.repository}"
    if asked.token:
        message = f"{asked.repository} is gated and the token's account has no access: ask for it at {page}."
    else:
        message = f"{asked.repository} is gated: ask for access at {page}, and give a token of that account (HF_TOKEN)."
    return FetchError(Reason.GATED, message)


def _no_revision(asked: Request) -> FetchError:
    message = f"{asked.repository} has no revision {asked.revision}: name a branch, a tag or a commit of it."
    return FetchError(Reason.REVISION, message)


def _disabled(asked: Request) -> FetchError:
    return FetchError(Reason.MODEL, f"{asked.hub} has disabled {asked.repository}: choose another repository.")


def _not_found(asked: Request) -> FetchError:
    hidden = "or the token may not see it" if asked.token else "or it is private and needs a token (HF_TOKEN)"
    return FetchError(Reason.MODEL, f"{asked.hub} has no repository {asked.repository}, {hidden}: check its name.")


def _no_name(asked: Request) -> FetchError:
    message = f"{asked.repository} is no repository: write it as ORGANIZATION/NAME, as its page on the hub does."
    return FetchError(Reason.MODEL, message)


def _no_file(asked: Request) -> FetchError:
    message = f"{asked.hub} lists a file of {asked.repository} that it does not serve: it is tried again later."
    return FetchError(Reason.HUB, message)


def _offline(asked: Request) -> FetchError:
    return FetchError(Reason.HUB, f"{asked.repository} cannot be fetched while HF_HUB_OFFLINE is set: unset it here.")


def _unreachable(error: Exception, asked: Request) -> FetchError:
    what = asked.scrub(str(error).split("\n", maxsplit=1)[0])[:200]
    said = f"{type(error).__name__}: {what}" if what else type(error).__name__
    message = f"{asked.hub} cannot be reached for {asked.repository} ({said})"
    return FetchError(Reason.HUB, f"{message}: check HF_ENDPOINT, the proxy and network policies.")


_EXPLAINED: tuple[tuple[type[Exception], Callable[[Request], FetchError]], ...] = (
    (GatedRepoError, _gated),
    (RevisionNotFoundError, _no_revision),
    (DisabledRepoError, _disabled),
    (RepositoryNotFoundError, _not_found),
    (RemoteEntryNotFoundError, _no_file),
    (HFValidationError, _no_name),
    (OfflineModeIsEnabled, _offline),
)
"""What huggingface_hub's exceptions say. A gated repository's is derived from that of one that is not found."""
