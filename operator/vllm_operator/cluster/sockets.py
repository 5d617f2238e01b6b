"""Connections that take nothing along when they are closed, and requests that look at no files, but at the time.

The kernel goes on sending what is left in the buffer of a closed socket, for minutes when the network is down. A write
that was given up could so reach the API server long after its author stopped leading; with SO_LINGER of zero seconds
closing discards it (socket(7)).

Between the moment when a client begins to send and the one when it hands bytes to the kernel an event loop does other
things, and a process may be stopped for minutes. So it is asked once more, at the last moment, whether it may.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any
from urllib.request import getproxies

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

_AT_ONCE = struct.pack("ii", 1, 0)


def _discarding(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    return made


def uses_proxies() -> bool:
    """Whether the environment names proxies.

    Only then may aiohttp look at it: for every request it also looks for a .netrc, both in another thread.
    """
    return bool(getproxies().keys() - {"no"})


def _asking(may_write: Callable[[], bool]) -> type[aiohttp.ClientRequest]:
    class Asking(aiohttp.ClientRequest):
        async def write_bytes(
            self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
        ) -> None:
            """Send the body, and what comes before it, which has been held back; a read has none."""
            if may_write():
                await super().write_bytes(writer, conn, content_length)
            else:
                conn.close()

    return Asking


class RestClient(RESTClientObject):
    """The client's own, on such connections; what `may_write` forbids at the last moment fails as if they broke."""

    def __init__(self, configuration: Configuration, may_write: Callable[[], bool]) -> None:
        configuration.client_session_kwargs = {"trust_env": uses_proxies(), "request_class": _asking(may_write)}
        super().__init__(configuration)

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=_discarding)
