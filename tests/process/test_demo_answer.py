"""The demo's chat answer is written as it is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from operator_process import ROOT

_WORDS = ("It ", "watches ", "and ", "acts.")
_PATIENCE_SECONDS = 30.0


class _OneWordAtATime(BaseHTTPRequestHandler):
    """A chat endpoint that makes no word before somebody has read the one before it."""

    server: _Slow

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in _WORDS:
            choice = {"choices": [{"delta": {"content": word}}]}
            self.wfile.write(f"data: {json.dumps(choice)}\n\n".encode())
            self.server.kept_back |= not self.server.was_read.acquire(timeout=_PATIENCE_SECONDS)
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Say nothing."""


class _Slow(ThreadingHTTPServer):
    """Its server: `was_read` is released once for every word that was read."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _OneWordAtATime)
        self.was_read = threading.Semaphore(0)
        self.kept_back = False


@pytest.fixture
def slow() -> Iterator[_Slow]:
    with _Slow() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_every_word_is_written_before_the_next_is_made(slow: _Slow) -> None:
    command = [sys.executable, "-c", f"from demo.chat import show; show('127.0.0.1:{slow.server_port}')"]
    environment = os.environ | {"PYTHONPATH": "operator:tests", "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        text, words = "", list(_WORDS)
        while piece := os.read(process.stdout.fileno(), 65536).decode():
            text += piece
            while words and words[0] in text:
                del words[0]
                slow.was_read.release()
    assert process.returncode == 0
    assert f"  vLLM: {''.join(_WORDS)}\n" in text
    assert not slow.kept_back
