"""Run every tier of the tests: the pure ones first, then the others side by side.

Tests of the control plane wait most of the time, for what a cluster does on its own; those on the real node compute
most of the time. Side by side they take little longer than the longest of them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
_SHORT = "not long"


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the tests: a name, a tier, and an expression of marks."""

    name: str
    tier: str
    marks: str = _SHORT


FIRST = Part("unit", "unit")
SHOWN = Part("cluster", "cluster", f"{_SHORT} and not arena")
# Tests that break a control plane have one of their own.
BESIDE = (Part("node", "node"), Part("arena", "cluster", f"{_SHORT} and arena"), Part("process", "process"))


@dataclass(frozen=True, slots=True)
class _Run:
    """A part that runs beside the one that is shown, and what it prints meanwhile."""

    part: Part
    process: subprocess.Popen[bytes]
    output: IO[bytes]


def _start(part: Part, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "-m", part.marks, f"tests/{part.tier}"]
    return subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
        command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT if output else None
    )


def _say(text: str) -> None:
    print(f"tests: {text}", flush=True)


def _finish(runs: list[_Run]) -> Iterator[int]:
    for run in runs:
        code = run.process.wait()
        _say(f"{run.part.name}:")
        run.output.seek(0)
        sys.stdout.buffer.write(run.output.read())
        sys.stdout.flush()
        yield code


def main() -> int:
    """Run all of them and return the exit code: 0 when none failed."""
    started = time.monotonic()
    _say("the pure tests")
    codes = [_start(FIRST).wait()]
    _say("left out: tests marked `long`, which take minutes each (`make node-test` runs them)")
    _say(f"{SHOWN.name} here; {', '.join(part.name for part in BESIDE)} beside it, shown afterwards")
    with ExitStack() as files:
        outputs = [files.enter_context(tempfile.TemporaryFile()) for _ in BESIDE]
        runs = [_Run(part, _start(part, output), output) for part, output in zip(BESIDE, outputs, strict=True)]
        codes.append(_start(SHOWN).wait())
        _say(f"{SHOWN.name} ended after {time.monotonic() - started:.0f} s; the rest:")
        codes += _finish(runs)
    _say(f"all ended after {time.monotonic() - started:.0f} s: {'passed' if not any(codes) else 'FAILED'}")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
