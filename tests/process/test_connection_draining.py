"""The module that runs in the servers' containers: what it does to responses, and when the hook lets go."""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SOURCE = files("vllm_operator.engine") / "data" / "connection_draining.py"
Message = dict[str, Any]


@pytest.fixture
def draining(tmp_path: Path) -> SimpleNamespace:
    """The module, with a marker of the test's own."""
    namespace = runpy.run_path(str(SOURCE))
    scope = namespace["stop"].__globals__
    scope["MARKER"] = tmp_path / "draining"
    scope["POLL_SECONDS"] = 0.01
    return SimpleNamespace(scope=scope, **namespace)


@pytest.fixture
def server(draining: SimpleNamespace) -> Iterator[socket.socket]:
    """A listening socket in the place of the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        draining.scope["PORT"] = listening.getsockname()[1]
        yield listening


def answered(draining: SimpleNamespace, kind: str = "http", *, stopping: bool) -> list[Message]:
    """What the server sends for an answer that would keep the connection."""
    sent: list[Message] = []
    headers = [(b"content-type", b"text/event-stream"), (b"Connection", b"keep-alive")]

    async def application(_scope: Message, _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        await send({"type": f"{kind}.response.start", "status": 200, "headers": headers})
        await send({"type": f"{kind}.response.body", "body": b"data: [DONE]"})

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = draining.ConnectionDraining(application)
    if stopping:
        draining.scope["MARKER"].touch()
    asyncio.run(middleware({"type": kind}, None, send))
    return sent


def test_answers_are_left_alone_while_nothing_stops(draining: SimpleNamespace) -> None:
    start, body = answered(draining, stopping=False)
    assert start["headers"][1] == (b"Connection", b"keep-alive")
    assert body == {"type": "http.response.body", "body": b"data: [DONE]"}


def test_answers_end_their_connection_while_the_pod_stops(draining: SimpleNamespace) -> None:
    start, body = answered(draining, stopping=True)
    assert start["headers"] == [(b"content-type", b"text/event-stream"), (b"connection", b"close")]
    assert start["status"] == 200
    assert body["body"] == b"data: [DONE]"


def test_other_protocols_are_left_alone(draining: SimpleNamespace) -> None:
    start, _ = answered(draining, "websocket", stopping=True)
    assert start["headers"][1] == (b"Connection", b"keep-alive")


def test_a_container_that_is_started_again_does_not_drain(draining: SimpleNamespace) -> None:
    draining.scope["MARKER"].touch()
    draining.ConnectionDraining(None)
    assert not draining.scope["MARKER"].exists()


def test_the_hook_waits_for_load_balancers_and_then_for_the_last_connection(
    draining: SimpleNamespace, server: socket.socket
) -> None:
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    hook = threading.Thread(target=draining.stop, args=(0.2, 30), daemon=True)
    hook.start()
    probe, _ = server.accept()
    probe.close()
    hook.join(timeout=0.6)
    assert hook.is_alive(), "a connection was open"
    assert draining.scope["MARKER"].exists()
    client.close()
    accepted.close()
    hook.join(timeout=10)
    assert not hook.is_alive()


def test_the_hook_does_not_wait_for_ever(draining: SimpleNamespace, server: socket.socket) -> None:
    with socket.create_connection(server.getsockname()):
        began = time.monotonic()
        draining.stop(0, 0.2)
        assert time.monotonic() - began >= 0.2
        assert draining.connections() > 0


def test_a_server_that_loads_is_asked_until_it_ends(draining: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SIGINT: for SIGTERM process 1 may have no handler yet, and then it does not notice."""
    sent: list[tuple[int, int]] = []

    def kill(process: int, number: int) -> None:
        sent.append((process, number))
        if len(sent) == 3:
            raise KeyboardInterrupt  # here the whole container ends

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    draining.scope["PORT"] = 1  # refused
    with pytest.raises(KeyboardInterrupt):
        draining.stop(15, 60)
    assert sent == [(1, signal.SIGINT)] * 3
    assert not draining.scope["MARKER"].exists()


def test_the_file_needs_nothing_but_python() -> None:
    """Without site-packages and without the environment, as the hook starts it; too few arguments end it at once."""
    ended = subprocess.run([sys.executable, "-I", "-S", str(SOURCE)], capture_output=True, text=True, check=False)
    assert ended.stderr.strip().splitlines()[-1].startswith("IndexError")
