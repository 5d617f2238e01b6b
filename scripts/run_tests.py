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
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[1]
_SHORT = "not long"
_SAID = 300  # characters of what a failed test said


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


def _start(part: Part, reports: Path, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    # The newer family of reports has no place for the properties that some tests record.
    report = (f"--junit-xml={reports / part.name}.xml", "--override-ini=junit_family=xunit1")
    command = [sys.executable, "-m", "pytest", *report, *part.options, *part.paths]
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


def _side_by_side(shown: Part, beside: Sequence[Part]) -> list[str]:
    """Run parts and return what failed; what the others print follows when the one that is shown has ended."""
    with ExitStack() as files:
        reports = Path(files.enter_context(tempfile.TemporaryDirectory()))
        outputs = [files.enter_context(tempfile.TemporaryFile()) for _ in beside]
        runs = [_Run(part, _start(part, reports, output), output) for part, output in zip(beside, outputs, strict=True)]
        codes = [_start(shown, reports).wait(), *_finish(runs)]
        ended = zip((shown, *beside), codes, strict=True)
        return [one for part, code in ended if code for one in _failures(part, code, reports / f"{part.name}.xml")]


def _failures(part: Part, code: int, report: Path) -> list[str]:
    """What failed in a part, a line each, from the report that pytest wrote of it (JUnit XML)."""
    cases = ET.parse(report).iter("testcase") if report.exists() else ()  # noqa: S314 - ours
    found = [
        f"{case.get('classname')}::{case.get('name')}: {' '.join((problem.get('message') or '').split())[:_SAID]}"
        for case in cases
        for problem in (*case.iter("failure"), *case.iter("error"))
    ]
    return found or [f"{part.name}: pytest ended with {code}"]


def _pure_tests(*options: str) -> list[str]:
    first, second = _halves(options)
    return _side_by_side(first, [second])


def _build() -> None:
    """Build what clusters are made of, first: beside tests it takes ten times as long, and they wait all the same.

    Where that fails, the tests that need it say so.
    """
    subprocess.run([sys.executable, "-m", "localcluster", "build"], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)


def _all() -> list[str]:
    failed = _pure_tests()
    _build()
    _say("left out: tests marked `long`, which take minutes each (`make node-test` runs them)")
    _say(f"{SHOWN.name} here; {', '.join(part.name for part in BESIDE)} beside it, shown afterwards")
    return failed + _side_by_side(SHOWN, BESIDE)


def main() -> int:
    """Run them and return the exit code: 0 when none failed. What failed is said once more at the end."""
    started = time.monotonic()
    failed = _pure_tests("--hypothesis-profile=quick") if sys.argv[1:] == ["unit"] else _all()
    for one in failed:
        _say(f"FAILED {one}")
    _say(f"all ended after {time.monotonic() - started:.0f} s: {'FAILED' if failed else 'passed'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
