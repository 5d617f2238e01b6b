"""What the person at the terminal sees meanwhile, and a lock so that two processes do not build the same."""

import contextlib
import fcntl
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def say(text: str) -> None:
    """Print one line to the terminal's error stream, so that the output of commands stays clean."""
    print(f"images: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(label: str) -> Iterator[None]:
    """Say that `label` begins, and at the end how long it took."""
    started = time.monotonic()
    say(f"{label} ...")
    yield
    say(f"{label}: {time.monotonic() - started:.0f} s")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; waiting for another process is said aloud."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
