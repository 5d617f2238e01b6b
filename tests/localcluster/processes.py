"""Processes known by pid and start time, so that a signal never reaches a process that re-uses a pid. Linux only."""

import contextlib
import functools
import os
import select
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from localcluster.errors import LocalClusterError

_DEATHSIG = Path(__file__).with_name("deathsig.py")
_EXIT_DEADLINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its pid, and its start time in clock ticks since boot (proc(5), /proc/pid/stat field 22)."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        _reap(self.pid)
        return _start_time(self.pid) == self.started

    @property
    def rss_bytes(self) -> int:
        """Resident set size in bytes; 0 when the process is gone."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        lines = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(lines[0].split()[1]) * 1024 if lines and self.alive else 0

    def kill(self) -> None:
        """Send SIGKILL to this very process and wait until it is gone.

        Every program of the control plane is made to survive SIGKILL, and the API server on SIGTERM waits for its
        watches, for ever once etcd has gone.

        Raises:
            LocalClusterError: the process did not go within the deadline.
        """
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The handle names one process for good: compared after opening, it cannot become another one.
            if not self.alive:
                return
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            ended, _, _ = select.select([handle], [], [], _EXIT_DEADLINE_SECONDS)
            if not ended:
                raise LocalClusterError(f"process {self.pid} is still there {_EXIT_DEADLINE_SECONDS:g} s after SIGKILL")
            _reap(self.pid)
        except ProcessLookupError:
            return
        finally:
            os.close(handle)


def this_process() -> Process:
    """Return the running process."""
    return _identify(os.getpid())


def spawn(command: Sequence[str], log: Path, home: Path, *, die_with_parent: bool) -> Process:
    """Start `command` in a session of its own, its output appended to `log`.

    Args:
        command: absolute path of the program, then its arguments.
        log: file for stdout and stderr.
        home: $HOME of the program; it gets no other variable but PATH, so no proxy or user setting reaches it.
        die_with_parent: the kernel kills the program when this process ends; without it the program outlives it.
    """
    if die_with_parent:
        return _lasting_thread().submit(_spawn, command, log, home, die_with_parent=True).result()
    return _spawn(command, log, home, die_with_parent=False)


def deathsig_command() -> list[str]:
    """Return what to put before a command so that the kernel kills it when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", str(_DEATHSIG), str(os.getpid())]


@functools.cache
def _lasting_thread() -> ThreadPoolExecutor:
    """Return the one thread that starts programs bound to this process.

    The kernel ends such a program when the *thread* that started it ends, so that must be one that lasts.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="localcluster")


def _spawn(command: Sequence[str], log: Path, home: Path, *, die_with_parent: bool) -> Process:
    full_command = [*(deathsig_command() if die_with_parent else []), *command]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        full_command[0],
        full_command,
        {"PATH": os.defpath, "HOME": str(home)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return _identify(pid)


def _identify(pid: int) -> Process:
    started = _start_time(pid)
    return Process(pid=pid, started=-1 if started is None else started)


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets and may hold anything, brackets and blanks included.
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
