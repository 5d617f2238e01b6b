"""`vllm-operator fetch` where the network is a company's: a private authority, and no way out but through a proxy."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import pytest

from fetching import NEEDED, Client, held_in
from hub import Hub
from localcluster.pki import Authority
from vllm_operator.report import Reason

# In the certificate of the hub, and known to no resolver here.
NAME = "kubernetes.default.svc"
TIMEOUT_SECONDS = 10.0


class _Tunnel(StreamRequestHandler):
    """CONNECT (RFC 9110, section 9.3.6): whatever the name, the way leads to the hub."""

    server: _Proxy

    def handle(self) -> None:
        method, target, *_ = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(f"{method} {target}")
        with socket.create_connection(("127.0.0.1", self.server.hub_port), TIMEOUT_SECONDS) as hub:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pour, args=(hub, self.connection), daemon=True)
            back.start()
            _pour(self.connection, hub)
            back.join(TIMEOUT_SECONDS)


class _Proxy(ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, hub_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.hub_port = hub_port
        self.asked: list[str] = []


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Certificate of an authority that nobody knows; beside it `hub.crt` and `hub.key`."""
    Authority(tmp_path, "ca").server("hub", ("127.0.0.1",))
    return tmp_path / "ca.crt"


@pytest.fixture
def private(authority: Path, tmp_path: Path, tiny: Path) -> Iterator[Client]:
    """A client of a hub with such a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.with_name("hub.crt"), authority.with_name("hub.key"))
    with Hub(tls=context) as hub:
        hub.add("org/tiny", tiny)
        yield Client(hub, tmp_path)


def test_a_private_authority_is_believed_where_it_is_named(private: Client, authority: Path) -> None:
    refused = private.run("org/tiny")
    assert refused.failure.reason == Reason.HUB
    assert "certificate" in refused.failure.message.lower()
    shutil.rmtree(private.home, ignore_errors=True)
    done = private.run("org/tiny", SSL_CERT_FILE=str(authority))
    assert done.code == 0, done
    (snapshot,) = (private.home / "hub" / "models--org--tiny" / "snapshots").iterdir()
    assert held_in(snapshot) == NEEDED


def test_a_proxy_is_the_only_way_to_the_hub(private: Client, authority: Path) -> None:
    port = urlsplit(private.hub.endpoint).port
    assert port
    endpoint = f"https://{NAME}:{port}"
    with _Proxy(port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        way = f"http://127.0.0.1:{proxy.server_address[1]}"
        done = private.run("org/tiny", HF_ENDPOINT=endpoint, SSL_CERT_FILE=str(authority), HTTPS_PROXY=way)
        proxy.shutdown()
    assert done.code == 0, done
    assert set(proxy.asked) == {f"CONNECT {NAME}:{port}"}
    alone = private.run("org/tiny", HF_ENDPOINT=endpoint, SSL_CERT_FILE=str(authority))
    assert alone.failure.reason == Reason.HUB
