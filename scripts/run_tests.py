"""Run every tier of the tests: the pure ones first, then the others side by side. With `unit`, only the pure ones.

Tests of the control plane wait most of the time, for what a cluster does on its own; those on the real node compute
most of the time. Side by side they take little longer than the longest of them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
_SHORT = "not long"


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the tests: a name, files or folders, and further options of pytest."""

    name: str
    paths: tuple[str, ...]
    options: tuple[str, ...] = ("-m", _SHORT)


# These make clusters of their own, or need none: they follow the shortest part.
_APART = (
    "tests/cluster/test_localcluster_kind.py",
    "tests/cluster/test_localcluster_lifecycle.py",
    "tests/node/test_demo.py",
    "tests/node/test_flags.py",
)
_NOT_APART = tuple(f"--ignore={path}" for path in _APART)
SHOWN = Part("cluster", ("tests/cluster",), ("-m", f"{_SHORT} and not arena", *_NOT_APART))
# Tests that break a control plane, or install the operator, have one of their own.
ARENA = Part("arena", ("tests/cluster",), ("-m", f"{_SHORT} and arena"))
NODE = Part("node", ("tests/node",), ("-m", _SHORT, *_NOT_APART))
BESIDE = (NODE, ARENA, Part("process", ("tests/process", *_APART)))


def _halves(options: tuple[str, ...]) -> list[Part]:
    """The pure tests, which only compute: a part for each of two cores."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "unit").glob("test_*.py"))
    return [Part(f"unit {number + 1}", tuple(files[number::2]), ("-q", *options)) for number in range(2)]


@dataclass(frozen=True, slots=True)
class _Run:
    """A part that runs beside the one that is shown, and what it prints meanwhile."""

    part: Part
    process: subprocess.Popen[bytes]
    output: IO[bytes]


def _start(part: Part, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", *part.options, *part.paths]
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


def _side_by_side(shown: Part, beside: Sequence[Part]) -> list[int]:
    """Run parts and return their exit codes; what the others print follows when the one that is shown has ended."""
    with ExitStack() as files:
        outputs = [files.enter_context(tempfile.TemporaryFile()) for _ in beside]
        runs = [_Run(part, _start(part, output), output) for part, output in zip(beside, outputs, strict=True)]
        return [_start(shown).wait(), *_finish(runs)]


def _pure_tests(*options: str) -> list[int]:
    first, second = _halves(options)
    return _side_by_side(first, [second])


def _build() -> None:
    """Build what clusters are made of, first: beside tests it takes ten times as long, and they wait all the same.

    Where that fails, the tests that need it say so.
    """
    subprocess.run([sys.executable, "-m", "localcluster", "build"], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)


def _all() -> list[int]:
    codes = _pure_tests()
    _build()
    _say("left out: tests marked `long`, which take minutes each (`make node-test` runs them)")
    _say(f"{SHOWN.name} here; {', '.join(part.name for part in BESIDE)} beside it, shown afterwards")
    return codes + _side_by_side(SHOWN, BESIDE)


def main() -> int:
    """Run them and return the exit code: 0 when none failed."""
    started = time.monotonic()
    codes = _pure_tests("--hypothesis-profile=quick") if sys.argv[1:] == ["unit"] else _all()
    _say(f"all ended after {time.monotonic() - started:.0f} s: {'passed' if not any(codes) else 'FAILED'}")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
