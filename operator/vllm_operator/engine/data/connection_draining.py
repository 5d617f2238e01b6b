"""Connection draining for `vllm serve`, inside the server's container: standard library only, no vllm_operator.

New connections stay away once load balancers have forgotten the pod, but clients go on using the ones that they have:
nothing ends those, and after SIGTERM vLLM answers requests on them with HTTP 500. So before SIGTERM, while the engine
still does everything, every answer says `Connection: close` (RFC 9112, section 9.6), which no client uses again.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

PORT = 8000
MARKER = Path("/tmp/draining")  # noqa: S108 - the pod's own volume; the hook tells every API server process by it
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ESTABLISHED = "01"  # include/net/tcp_states.h of Linux
POLL_SECONDS = 0.25

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class ConnectionDraining:
    """ASGI middleware: while the pod stops, every HTTP response is the last one on its connection."""

    def __init__(self, app: Application) -> None:
        self._app = app
        MARKER.unlink(missing_ok=True)  # of a container of this pod that was stopped before

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer as the application does."""

        async def answer(message: Message) -> None:
            await send(_last(message))

        await self._app(scope, receive, answer if scope["type"] == "http" else send)


def _last(message: Message) -> Message:
    """The message, with `Connection: close` if it carries the headers and the pod is stopping."""
    if message["type"] != "http.response.start" or not MARKER.exists():
        return message
    kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"connection"]
    return {**message, "headers": [*kept, (b"connection", b"close")]}


def stop(pre_stop: float, drain: float) -> None:
    """The preStop hook: return when SIGTERM does no harm.

    A server that is still loading refuses connections. While it imports, process 1 has no handler for SIGTERM and does
    not notice it; Python has one for SIGINT from its first moment. Later vLLM swallows the first of either. SIGINT is
    sent every second until the server is gone, and this process with it.

    Args:
        pre_stop: seconds in which load balancers forget the pod.
        drain: seconds after that in which the connections that are left may end.

    """
    while not _listens():
        os.kill(1, signal.SIGINT)
        time.sleep(1)
    MARKER.touch()
    time.sleep(pre_stop)
    deadline = time.monotonic() + drain
    while connections() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _listens() -> bool:
    """Whether the port takes connections; an HTTP client would follow the proxies in the environment."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", PORT)) != errno.ECONNREFUSED


def connections() -> int:
    """How many connections to the server are open, as the kernel lists them (proc_net_tcp in its documentation)."""
    rows = [line.split() for table in TABLES if table.exists() for line in table.read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{PORT:04X}") and row[3] == ESTABLISHED for row in rows)


if __name__ == "__main__":
    stop(float(sys.argv[1]), float(sys.argv[2]))
