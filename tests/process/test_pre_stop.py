"""The hook that runs before a server is stopped, as a process in namespaces of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planning import server_of, spec_of

HARNESS = """
import fcntl, os, signal, socket, struct, subprocess, sys, time
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
signal.signal(signal.SIGTERM, lambda *_: terms.append(time.monotonic()))
terms, server = [], socket.create_server(("127.0.0.1", 8000), backlog=0 if "busy" in sys.argv else 5)
if "loading" in sys.argv:
    server.close()
    server = socket.socket()
    server.bind(("127.0.0.1", 8000))  # bound, not listening
if "busy" in sys.argv:
    crowd = [socket.socket() for _ in range(4)]
    for one in crowd:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", 8000))
begun = time.monotonic()
code = subprocess.call(sys.argv[2:])
print(os.getpid(), code, len(terms), time.monotonic() - begun)
"""


def start_pre_stop(harness: Path, state: str, seconds: int) -> subprocess.Popen[str]:
    """Run the hook in namespaces of its own, where the harness is process 1 and holds port 8000."""
    isolated = ["unshare", "--net", "--pid", "--fork", "--kill-child", sys.executable, str(harness), state]
    environment = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}
    command = [*isolated, *pre_stop_command(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_the_pre_stop_hook_waits_for_a_loaded_server_and_ends_a_loading_one(tmp_path: Path) -> None:
    """A server whose queue of connections is full is loaded. The proxies of the user's environment lead nowhere."""
    probe = ["unshare", "--net", "--pid", "--fork", "true"]
    if not shutil.which("unshare") or subprocess.run(probe, check=False).returncode:
        pytest.skip("needs the right to make network and process namespaces")
    harness = tmp_path / "harness.py"
    harness.write_text(HARNESS)
    states = {"loaded": 1, "loading": 300, "busy": 0}
    hooks = {state: start_pre_stop(harness, state, seconds) for state, seconds in states.items()}
    ended = {state: hook.communicate(timeout=30)[0].split() for state, hook in hooks.items()}
    outcome = {state: (words[0], words[1], words[2]) for state, words in ended.items()}
    assert outcome == {"loaded": ("1", "0", "0"), "loading": ("1", "0", "1"), "busy": ("1", "0", "0")}
    assert all(1 <= float(words[3]) < 30 for words in ended.values())


def pre_stop_command(seconds: int) -> list[str]:
    hook = server_of(spec_of(lifecycle={"preStopSeconds": seconds}))["lifecycle"]["preStop"]
    python, *arguments = hook["exec"]["command"]
    assert python == "python3"
    return [sys.executable, *arguments]
