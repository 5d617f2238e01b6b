"""The hub's HTTP server."""

from __future__ import annotations

import threading
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import Self

from hub.faults import Fault, Faults
from hub.handler import HubServer
from hub.repository import Commit, Repository, StoredFile
from hub.seen import Seen


class Hub:
    """A hub on an address of this machine; a context manager that starts and stops it.

    `prefix` is a path before all others, as mirrors have one. `page` is the number of entries of a listing's page.
    With `tokens`, a token that is none of them, and of no repository, is refused. With `tls` it speaks HTTPS.
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        prefix: str = "",
        page: int = 1000,
        tls: SSLContext | None = None,
    ) -> None:
        self.prefix, self.page = prefix, page
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.content_host = ""
        """Where large files are redirected to, as `http://host:port`; empty: the hub itself."""
        self.metadata = True
        """Whether descriptions tell sizes; some mirrors do not."""
        self._server = HubServer((address, port), self, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"{self._server.scheme}://{self._server.server_address[0]!s}:{self.port}{self.prefix}"

    def add(self, name: str, folder: Path, revision: str = "main", *, gated: bool = False, token: str = "") -> Commit:
        """Serve a folder as a revision of the repository."""
        repository = self.repositories.setdefault(name, Repository(name))
        repository.gated, repository.token = gated, token
        return repository.add(folder, revision)

    def fault(self, fault: Fault) -> Fault:
        """Misbehave from now on."""
        return self.faults.add(fault)

    def knows(self, token: str) -> bool:
        """Whether somebody has the token."""
        return token in self.tokens or any(token == one.token for one in self.repositories.values())

    def content(self, sha256: str) -> StoredFile | None:
        """The large file of that hash."""
        commits = (commit for one in self.repositories.values() for commit in one.commits.values())
        files = (file for commit in commits for file in commit.files.values() if file.is_lfs)
        return next((file for file in files if file.sha256 == sha256), None)

    def requests(self, path: str = "", method: str = "GET") -> list[Seen]:
        """What was asked so far, paths that hold `path` only."""
        return [one for one in list(self.seen) if path in one.path and one.method == method]

    def __enter__(self) -> Self:
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and close the port."""
        self.faults.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
