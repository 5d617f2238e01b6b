"""Every measured start beside its prediction: the targets of accuracy."""

from __future__ import annotations

import pytest

from sizing.points import FAILURES, FORCED, Point, allowed, points
from sizing.report import fails_rightly, main
from vllm_operator.sizing.types import Verdict
from vllm_operator.sizing.weights import GIB

STARTED = [one for one in points() if one.started]
FAILED = [one for one in points() if not one.started]


def name_of(one: Point) -> str:
    return one.name


@pytest.mark.parametrize("one", STARTED, ids=name_of)
def test_a_start_is_not_refused_and_its_kv_cache_is_near(one: Point) -> None:
    assert one.answer.verdict in {Verdict.FITS, Verdict.TIGHT}
    assert one.error is not None
    assert abs(one.error) <= allowed(one)


@pytest.mark.parametrize("one", [one for one in STARTED if one.name not in FORCED], ids=name_of)
def test_the_conservative_bound_promises_no_more_than_there_was(one: Point) -> None:
    assert one.kv_bytes is not None
    assert one.low <= one.kv_bytes / GIB + 0.01  # published to two digits


@pytest.mark.parametrize("one", STARTED, ids=name_of)
def test_weights_are_near_what_was_loaded(one: Point) -> None:
    loaded = one.measured.get("weights_gib_exact", one.measured.get("weights_gib"))
    if "max_loras" in one.measured["args"]:
        return  # buffers of adapters are counted beside the weights
    share = 0.07 if "gpt-oss" in one.name else 0.005
    assert abs(one.weights - loaded) <= max(0.12, share * loaded)


@pytest.mark.parametrize("one", FAILED, ids=name_of)
def test_a_start_that_failed_is_refused_for_its_reason(one: Point) -> None:
    assert one.name in FAILURES
    assert fails_rightly(one), one.answer.reasons


def test_the_mean_error_of_the_kv_cache() -> None:
    errors = [abs(one.error or 0.0) for one in STARTED]
    assert sum(errors) / len(errors) <= 0.15


def test_the_report_says_that_every_target_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    assert "mean absolute error" in capsys.readouterr().out
