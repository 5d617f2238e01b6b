"""Connections that take nothing along when they are closed, and requests that look at no files.

The kernel goes on sending what is left in the buffer of a closed socket, for minutes when the network is down. A write
that was given up could so reach the API server long after its author stopped leading; with SO_LINGER of zero seconds
closing discards it (socket(7)).
"""

from __future__ import annotations

import socket
import struct
from typing import Any
from urllib.request import getproxies

import aiohttp
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


class RestClient(RESTClientObject):
    """The client's own, on such connections."""

    def __init__(self, configuration: Configuration) -> None:
        configuration.client_session_kwargs = {"trust_env": uses_proxies()}
        super().__init__(configuration)

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=_discarding)
