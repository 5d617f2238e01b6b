"""Connections that take nothing along when they are closed.

The kernel goes on sending what is left in the buffer of a closed socket, for minutes when the network is down. A write
that was given up could so reach the API server long after its author stopped leading; with SO_LINGER of zero seconds
closing discards it (socket(7)).
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import aiohttp
from kubernetes.aio.client.rest import RESTClientObject

_AT_ONCE = struct.pack("ii", 1, 0)


def _discarding(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    return made


class RestClient(RESTClientObject):
    """The client's own, on such connections."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=_discarding)
