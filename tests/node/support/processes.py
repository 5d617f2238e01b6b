"""Processes in pods, as this machine numbers them."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


def of_pod(uid: str, word: str) -> list[int]:
    """Return the processes of a pod whose command line holds a word."""
    return [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if _reads(folder / "cmdline", word) and _reads(folder / "cgroup", uid)
    ]


def _reads(path: Path, word: str) -> bool:
    try:
        return word in path.read_text(errors="replace")
    except OSError:  # a process that has ended meanwhile
        return False


@contextmanager
def paused(processes: Collection[int]) -> Iterator[None]:
    """Stop processes, and let them go on afterwards."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
