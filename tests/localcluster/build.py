"""Builds the programs of the local cluster from their Go modules, once, into the cache.

A binary's file name holds its version and a key over its dependencies and flags (see tools.Tool.key): it is built
again only when one of those changes. Go's own build cache makes even that quick where little changed.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from localcluster.errors import LocalClusterError
from localcluster.paths import bin_root
from localcluster.tools import BUILD_ENV, BUILD_FLAGS, CONTROL_PLANE, TOOLS, Tool, go_directive

HEARTBEAT_SECONDS = 15.0
# The slowest program takes under 4 minutes on two cores with an empty cache; a loaded laptop may need many times that.
BUILD_DEADLINE_SECONDS = 3600.0


def ensure(names: Iterable[str] = CONTROL_PLANE) -> dict[str, Path]:
    """Return the path of each named program, building those that the cache lacks.

    Raises:
        LocalClusterError: Go is missing or too old, a build fails, or a name is not in the tool table.
    """
    tools = [_tool(name) for name in names]
    missing = [tool for tool in tools if not tool.path.exists()]
    if missing:
        _build_missing(missing)
    return {tool.name: tool.path for tool in tools}


def _tool(name: str) -> Tool:
    try:
        return TOOLS[name]
    except KeyError:
        raise LocalClusterError(f"no program {name!r} in the tool table; known: {', '.join(TOOLS)}") from None


def _build_missing(missing: list[Tool]) -> None:
    go = find_go(max(go_directive(tool.folder / "go.mod") for tool in missing))
    bin_root().mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for number, tool in enumerate(missing, start=1):
        with _build_lock(tool):
            if not tool.path.exists():
                _build(go, tool, f"[{number}/{len(missing)}]")
    _say(f"programs ready in {bin_root()} after {time.monotonic() - started:.0f} s")


def find_go(needed: tuple[int, int]) -> str:
    """Return the path of a `go` command of at least version `needed`.

    Raises:
        LocalClusterError: there is none; the text names the version and where it comes from.
    """
    wanted = f"Go {needed[0]}.{needed[1]} or newer"
    hint = "install it from https://go.dev/dl/ or your distribution, and put `go` on PATH"
    go = shutil.which("go")
    if go is None:
        raise LocalClusterError(f"building the local cluster needs {wanted}, and there is no `go` on PATH; {hint}")
    answer = subprocess.run([go, "env", "GOVERSION", "GOTOOLCHAIN"], capture_output=True, text=True, check=False)
    found, _, toolchain = answer.stdout.strip().partition("\n")
    match = re.match(r"go(\d+)\.(\d+)", found)
    if match is None:
        raise LocalClusterError(f"`{go} env GOVERSION` answered {found!r} {answer.stderr.strip()}; {hint}")
    # Since 1.21 Go fetches the toolchain that go.mod asks for, unless GOTOOLCHAIN forbids it.
    fetches = (int(match[1]), int(match[2])) >= (1, 21) and toolchain != "local"
    if (int(match[1]), int(match[2])) < needed and not fetches:
        raise LocalClusterError(f"building the local cluster needs {wanted}, and {go} is {found}; {hint}")
    return go


@contextmanager
def _build_lock(tool: Tool) -> Iterator[None]:
    """Hold the lock of one program, so that two processes do not build the same; waiting is said aloud."""
    with (bin_root() / f".{tool.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process that is building {tool.name}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(go: str, tool: Tool, position: str) -> None:
    label = f"{position} {tool.name} {tool.version}"
    started = time.monotonic()
    _say(f"{label}: building")
    partial = tool.path.with_name(f".{tool.path.name}.{os.getpid()}")
    command = [go, "build", *BUILD_FLAGS, f"-ldflags={tool.ldflags}", "-o", str(partial), tool.package]
    try:
        _run_with_heartbeat(command, tool.folder, label)
        partial.rename(tool.path)
    finally:
        partial.unlink(missing_ok=True)
    size = tool.path.stat().st_size / 2**20
    _say(f"{label}: built in {time.monotonic() - started:.0f} s, {size:.0f} MiB")


def _run_with_heartbeat(command: list[str], folder: Path, label: str) -> None:
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | BUILD_ENV, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while (code := _wait(process, HEARTBEAT_SECONDS)) is None:
                elapsed = time.monotonic() - started
                if elapsed > BUILD_DEADLINE_SECONDS:
                    raise LocalClusterError(f"{label}: not built after {elapsed:.0f} s; `{' '.join(command)}`")
                _say(f"{label}: still building, {elapsed:.0f} s")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if code != 0:
            raise LocalClusterError(_failure(label, code, command, log))


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def _failure(label: str, code: int, command: list[str], log: IO[str]) -> str:
    log.seek(0)
    tail = "\n".join(log.read().splitlines()[-20:])
    return f"{label}: go build ended with {code}\n{tail}\ncommand: {' '.join(command)}"


def _say(text: str) -> None:
    print(f"localcluster: {text}", file=sys.stderr, flush=True)
