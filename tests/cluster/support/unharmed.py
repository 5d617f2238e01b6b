"""The operator outlives every test: it did not end by itself, and its log holds no traceback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from operator_process import OperatorProcess

_TRACEBACK = "Traceback (most recent call last)"
_CONTEXT_LINES = 30


def tracebacks(operator: OperatorProcess, since: int = 0) -> list[str]:
    """Return the tracebacks in the operator's log after a mark, each with the lines that follow."""
    lines = operator.tail(since, lines=1_000_000).splitlines()
    starts = [number for number, line in enumerate(lines) if _TRACEBACK in line]
    return ["\n".join(lines[max(0, start - 1) : start + _CONTEXT_LINES]) for start in starts]


@pytest.fixture
def unharmed(operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """The operator of the run, which must still be that very process when the test ends."""
    since, process = operator.mark(), operator.process
    yield operator
    assert operator.process is process, "the test started another operator"
    assert operator.alive, f"the operator ended by itself with {process.returncode}"
    assert tracebacks(operator, since) == []
