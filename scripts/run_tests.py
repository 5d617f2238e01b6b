"""Run every tier of the tests: the pure ones first, then two rows of tiers side by side.

Tests of the control plane wait most of the time, for what a cluster does on its own; those on the real node compute
most of the time. Side by side they take little longer than the longer of the two.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
FIRST = ("unit",)
ROWS = (("cluster", "process"), ("node",))


def _start(tiers: tuple[str, ...], output: IO[bytes] | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "-m", "not long", *(f"tests/{tier}" for tier in tiers)]
    return subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
        command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT if output else None
    )


def _say(text: str) -> None:
    print(f"tests: {text}", flush=True)


def main() -> int:
    """Run all of them and return the exit code: 0 when none failed."""
    started = time.monotonic()
    _say("the pure tests")
    codes = [_start(FIRST, None).wait()]
    _say("left out: tests marked `long`, which take minutes each (`make node-test` runs them)")
    shown, other = ROWS
    _say(f"{' and '.join(shown)} here, {' and '.join(other)} beside it (shown afterwards)")
    with tempfile.TemporaryFile() as kept:
        beside = _start(other, kept)
        codes.append(_start(shown, None).wait())
        _say(f"{' and '.join(shown)} ended after {time.monotonic() - started:.0f} s; the rest:")
        codes.append(beside.wait())
        kept.seek(0)
        sys.stdout.buffer.write(kept.read())
        sys.stdout.flush()
    _say(f"all ended after {time.monotonic() - started:.0f} s: {'passed' if not any(codes) else 'FAILED'}")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
