"""A door between the operator and the API server that a test can shut: what happens behind it, the operator misses.

Shut, it refuses connections. Swallowing, it accepts them, and loses what is sent, as a network does that drops packets.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from operator_process import free_port

_CHUNK = 65_536


class Gate:
    """Passes TCP connections on to the API server of a kubeconfig while it is open; TLS goes through untouched."""

    def __init__(self, kubeconfig: Path) -> None:
        self._config = yaml.safe_load(kubeconfig.read_text())
        cluster = self._config["clusters"][0]["cluster"]
        server = urlsplit(cluster["server"])
        self._target = (str(server.hostname), int(server.port or 443))
        self._port = free_port()
        cluster["server"] = f"https://127.0.0.1:{self._port}"
        self.kubeconfig = kubeconfig.with_suffix(".gate")
        self.kubeconfig.write_text(yaml.safe_dump(self._config))
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._swallows = False

    def swallow(self) -> None:
        """From now on everything is lost."""
        self._swallows = True

    def open(self) -> None:
        """Accept connections."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def heal(self) -> None:
        """Lose nothing any more. Connections that have lost something are cut: nobody sends it again."""
        self._swallows = False
        for connection in tuple(self._open):
            _close(connection)

    def shut(self) -> None:
        """Cut every connection, and refuse new ones."""
        if self._listener is None:
            return
        _close(self._listener)
        self._listener = None
        for connection in tuple(self._open):
            _close(connection)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                inner, _ = listener.accept()
            except OSError:
                return
            try:
                outer = socket.create_connection(self._target, timeout=5)
            except OSError:
                inner.close()
                continue
            outer.settimeout(None)
            self._open |= {inner, outer}
            for source, sink in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                if not self._swallows:
                    sink.sendall(data)
        for end in (source, sink):
            self._open.discard(end)
            _close(end)


def _close(end: socket.socket) -> None:
    """Close a socket in a way that wakes whoever waits on it."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def opened(kubeconfig: Path) -> Iterator[Gate]:
    """An open gate in front of a kubeconfig's API server, shut at the end."""
    gate = Gate(kubeconfig)
    gate.open()
    try:
        yield gate
    finally:
        gate.shut()
