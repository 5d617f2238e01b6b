"""Answers one request to the hub.

Statuses, codes and headers are those that huggingface_hub tells errors apart by (its utils/_http.py and errors.py).
"""

from __future__ import annotations

import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hub.faults import Fault
from hub.repository import Access, Commit, Repository, StoredFile
from hub.seen import Seen

if TYPE_CHECKING:
    from hub.server import Hub

CHUNK = 2**15
API = re.compile(
    r"/api/models/(?P<name>[^/]+(?:/[^/]+)?)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+)(?P<rest>/.*)?)?"
)
RESOLVE = re.compile(r"/(?P<name>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
CONTENT = re.compile(r"/content/(?P<commit>[0-9a-f]{40})/(?P<sha256>[0-9a-f]{64})")


class _Answered(Exception):  # noqa: N818 - not an error: the request has its answer
    """The request was answered early."""


class HubServer(ThreadingHTTPServer):
    """Hands requests to a hub."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], hub: Hub, tls: SSLContext | None) -> None:
        super().__init__(address, Handler)
        self.hub = hub
        self.scheme = "https" if tls else "http"
        if tls:  # whose handshakes are the business of each connection's own thread
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def server_bind(self) -> None:
        """Bind, with a short buffer: what is cut off or slow is so at once."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle is nothing to report."""


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with connections that stay open."""

    protocol_version = "HTTP/1.1"
    server: HubServer
    fault: Fault | None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """The hub keeps its own record."""

    def do_HEAD(self) -> None:
        """As GET, without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer, unless a fault does."""
        self.sent, self.status, self.first = 0, 0, 0
        split = urlsplit(self.path)
        self.fault = self.server.hub.faults.take(self.command, self.path)
        try:
            self._hold()
            self._route(split.path, {key: values[0] for key, values in parse_qs(split.query).items()})
        except _Answered:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            authorized = "Authorization" in self.headers
            seen = Seen(self.command, self.path, self.status, self.first, self.sent, authorized)
            self.server.hub.seen.append(seen)

    def _hold(self) -> None:
        fault = self.fault
        if fault and fault.held and fault.after is None:
            fault.wait()
        if fault and fault.status:
            self._json({"error": f"told to answer {fault.status}"}, fault.status, fault.headers)
            raise _Answered

    def _route(self, path: str, query: dict[str, str]) -> None:
        prefix = self.server.hub.prefix
        inner = path.removeprefix(prefix)
        if not path.startswith(prefix):
            return self._refuse(404)
        self._check_token()
        if found := CONTENT.fullmatch(inner):
            return self._content(found["commit"], found["sha256"])
        if found := API.fullmatch(inner):
            return self._api(found, query)
        if found := RESOLVE.fullmatch(inner):
            return self._resolve(found["name"], unquote(found["revision"]), unquote(found["path"]))
        return self._refuse(404)

    @property
    def token(self) -> str:
        """The token of the request, empty without one; a password in the address is a mirror's own affair."""
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        return credentials if scheme == "Bearer" else ""

    @property
    def origin(self) -> str:
        """The hub as the client calls it: it may listen on every address."""
        return f"{self.server.scheme}://{self.headers['Host']}"

    def _check_token(self) -> None:
        if self.token and not self.server.hub.knows(self.token):
            self._refuse(401, "", "Invalid credentials in Authorization header")
            raise _Answered

    def _api(self, found: re.Match[str], query: dict[str, str]) -> None:
        repository = self._repository(found["name"], files=False)
        commit = self._commit(repository, unquote(found["revision"] or "main"))
        if found["what"] == "tree":
            return self._tree(commit, query)
        blobs = self.server.hub.metadata and query.get("blobs", "").lower() in {"true", "1"}
        return self._json(repository.described(commit, blobs=blobs))

    def _tree(self, commit: Commit, query: dict[str, str]) -> None:
        start, page = int(query.get("cursor", 0)), self.server.hub.page
        entries = [file.described() for file in commit.files.values()]
        headers = {}
        if start + page < len(entries):
            here = f"{self.origin}{urlsplit(self.path).path}"
            headers["Link"] = f'<{here}?recursive=true&cursor={start + page}>; rel="next"'
        self._json(entries[start : start + page], headers=headers)

    def _repository(self, name: str, *, files: bool) -> Repository:
        """The repository, if it is there for whoever asks."""
        repository = self.server.hub.repositories.get(name)
        access = repository.access(self.token, files=files) if repository else Access.HIDDEN
        if repository and access is Access.ALLOWED:
            return repository
        if access is Access.GATED:
            self._refuse(403 if self.token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        elif self.token:
            self._refuse(404, "RepoNotFound", "Repository not found")
        else:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
        raise _Answered

    def _commit(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            raise _Answered
        return commit

    def _resolve(self, name: str, revision: str, path: str) -> None:
        commit = self._commit(self._repository(name, files=True), revision)
        file = commit.files.get(path)
        if file is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if not file.is_lfs:
            return self._file(file, headers)
        hub = self.server.hub
        location = (
            f"{hub.content_host or self.origin}{hub.prefix}/content/{commit.sha}/{file.sha256}?name={quote(path)}"
        )
        linked = {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"', "Location": location}
        return self._json({}, 302, {**headers, **linked})

    def _content(self, commit: str, sha256: str) -> None:
        """A large file. The commit is named for clients that follow a redirect to the hub itself to its end."""
        file = self.server.hub.content(sha256)
        if file is None:
            return self._refuse(404)
        return self._file(file, {"X-Repo-Commit": commit, "ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    def _file(self, file: StoredFile, headers: dict[str, str]) -> None:
        size = file.size
        first, last = self._range(size)
        if first > last and size:
            return self._json({}, 416, {"Content-Range": f"bytes */{size}"})
        partial = self.first > 0 or last + 1 < size
        self.status = 206 if partial else 200
        self.send_response(self.status)
        if partial:
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}
        self._headers({**headers, "Content-Length": str(last - first + 1)})
        if self.command == "GET":
            self._body(file, first, last)
        return None

    def _range(self, size: int) -> tuple[int, int]:
        """First and last byte that are asked for, the last one included."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found or (self.fault and self.fault.no_ranges):
            return 0, size - 1
        self.first = int(found[1])
        return self.first, min(int(found[2] or size - 1), size - 1)

    def _body(self, file: StoredFile, first: int, last: int) -> None:
        fault, left = self.fault, last - first + 1
        with file.content.open("rb") as stream:
            stream.seek(first)
            while left > 0 and (chunk := stream.read(min(CHUNK, left))):
                self._disturb(len(chunk))
                self.wfile.write(bytes(len(chunk)) if fault and fault.damaged else chunk)
                self.sent, left = self.sent + len(chunk), left - len(chunk)

    def _disturb(self, size: int) -> None:
        """What the fault does before the next bytes of a body."""
        fault = self.fault
        if fault and fault.rate:
            time.sleep(size / fault.rate)
        if fault is None or fault.after is None or self.sent < fault.after:
            return
        if fault.held:
            fault.wait()
        else:
            self.close_connection = True
            raise _Answered

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._json({"error": message or "Not Found"}, status, {key: value for key, value in headers.items() if value})

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:  # noqa: ANN401
        body = json.dumps(content).encode()
        self.status = status
        self.send_response(status)
        self._headers({**(headers or {}), "Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _headers(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
