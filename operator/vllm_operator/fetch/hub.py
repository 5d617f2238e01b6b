"""A repository on a hub, through huggingface_hub: its session (proxies, certificates), its token, its addresses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_session, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, validate_repo_id

from vllm_operator.fetch.content import check_size
from vllm_operator.fetch.failures import FetchError, Request, explain
from vllm_operator.fetch.selection import File
from vllm_operator.report import Reason

T = TypeVar("T")

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each new attempt."""

LONGEST_WAIT = 60.0
"""Seconds that a hub may ask to wait for (Retry-After); a Job tries again later anyway."""

TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
"""Seconds without a byte. The client's own default is to wait for ever."""

CHUNK = 2**20

PART = 2**34
"""Bytes of one request. Content networks refuse to send 50 GB at once (huggingface_hub MAX_HTTP_DOWNLOAD_SIZE)."""

_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_PARTIAL = 206


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at a commit."""

    commit: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class Hub:
    """One repository on the hub that HF_ENDPOINT names, as whoever HF_TOKEN belongs to sees it."""

    repository: str
    revision: str

    @cached_property
    def request(self) -> Request:
        """What failures are explained with. Raises FetchError for a token that no header can carry."""
        token = get_token()
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            message = f"The token given for {self.repository} holds characters that no token has: check the Secret."
            raise FetchError(Reason.TOKEN, message)
        return Request(self.repository, self.revision, constants.ENDPOINT, token)

    def listing(self) -> Listing:
        """The commit that the revision stands for, and its files. Raises FetchError."""
        return self._explained(self._listing)

    def _listing(self) -> Listing:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the client's warnings repeat what is said here
        validate_repo_id(self.repository)
        api = HfApi(token=self.request.token or False, library_name="vllm-operator")
        seconds = TIMEOUT.read
        info = _persistently(
            lambda: api.model_info(self.repository, revision=self.revision, files_metadata=True, timeout=seconds)
        )
        commit = info.sha or ""
        files = [
            File(one.rfilename, one.size, (one.lfs.sha256 if one.lfs else one.blob_id) or "")
            for one in info.siblings or ()
            if one.size is not None
        ]
        if len(files) < len(info.siblings or ()):  # a mirror that tells no sizes there
            files = self._tree(api, commit)
        return Listing(commit, tuple(files))

    def _tree(self, api: HfApi, commit: str) -> list[File]:
        entries = _persistently(lambda: list(api.list_repo_tree(self.repository, recursive=True, revision=commit)))
        return [
            File(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in entries
            if isinstance(entry, RepoFile)
        ]

    def read(self, file: File, commit: str) -> bytes:
        """The content of a small file. Raises FetchError, and ValueError for a file that is not small."""
        check_size(file.size)
        return self._explained(lambda: _persistently(lambda: self._read(file, commit)))

    def _read(self, file: File, commit: str) -> bytes:
        content = bytearray()
        with self.stream(file, commit, 0) as (_, chunks):
            for chunk in chunks:
                content += chunk
                if len(content) > file.size:
                    raise httpx2.RemoteProtocolError(f"{file.path} is longer than the hub lists")
        return bytes(content)

    @contextmanager
    def stream(self, file: File, commit: str, first: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Bytes of a file from `first` on, at most PART of them, and where they begin: 0 if the hub has no ranges.

        The address is asked for every time, since those that it redirects to expire. The session leaves the token
        out when it follows one to another host. Raises what the client raises.
        """
        url = hf_hub_url(self.repository, file.path, revision=commit)
        headers = build_hf_headers(token=self.request.token or False, library_name="vllm-operator")
        headers["Accept-Encoding"] = "identity"
        if first or file.size > PART:
            headers["Range"] = f"bytes={first}-{min(first + PART, file.size) - 1}"
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            hf_raise_for_status(response)
            yield (first if response.status_code == _PARTIAL else 0), response.iter_bytes(CHUNK)

    def _explained(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:
            raise explain(error, self.request) from error


def cache_folder(home: Path | None) -> Path:
    """The hub's folder in the cache `home`; without one, where HF_HUB_CACHE and HF_HOME say."""
    return home / "hub" if home else Path(constants.HF_HUB_CACHE)


def passes(error: Exception) -> bool:
    """Whether the next attempt may do better: the network, a server that is overloaded or broken."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _AGAIN
    return isinstance(error, httpx2.TransportError)


def wait_before(attempt: int, error: Exception) -> float:
    """Seconds to wait before a new attempt: as the hub asks for, or twice as long each time."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(float(asked), LONGEST_WAIT) if asked.isdigit() else WAITS[attempt]


def _persistently(action: Callable[[], T]) -> T:
    """The result of an action that may fail for a while."""
    for attempt in range(len(WAITS)):
        try:
            return action()
        except Exception as error:
            if not passes(error):
                raise
            time.sleep(wait_before(attempt, error))
    return action()
