"""What is said of passes: each decision once, with its reason, and never twice the same."""

import logging

import pytest

from vllm_operator.app.ledger import Ended, Ledger
from vllm_operator.naming import Key

KEY = Key("team", "chat")
LOGGER = "vllm_operator.app.ledger"


class Meter:
    def __init__(self) -> None:
        self.passes: list[tuple[str, float, bool]] = []

    def passed(self, result: str, seconds: float, *, retried: bool) -> None:
        self.passes.append((result, seconds, retried))


def levels(caplog: pytest.LogCaptureFixture, *endings: tuple[Ended, Exception | None]) -> list[str]:
    """Levels of the lines about passes that follow each other."""
    caplog.set_level(logging.DEBUG, LOGGER)
    ledger = Ledger()
    for ended, error in endings:
        ledger.note(KEY, ended, error)
    return [record.levelname for record in caplog.records]


def blocked(reason: str = "QuotaExceeded", message: str = "no quota", writes: int = 0) -> tuple[Ended, Exception]:
    return Ended("blocked", 0.1, writes, reason=reason, message=message, retry_in=30), OSError(message)


def well(writes: int) -> tuple[Ended, None]:
    return Ended("written" if writes else "unchanged", 0.1, writes, "Ready", "Available"), None


def test_a_pass_that_wrote_is_a_line_and_one_that_did_not_is_none(caplog: pytest.LogCaptureFixture) -> None:
    assert levels(caplog, well(2), well(0), well(1), well(1)) == ["INFO", "DEBUG", "INFO", "INFO"]
    assert vars(caplog.records[0])["reason"] == "Available"
    assert vars(caplog.records[0])["phase"] == "Ready"


def test_a_refusal_says_its_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    story = [blocked(), blocked(), blocked(), blocked("Forbidden"), blocked("Forbidden", "other words"), blocked()]
    assert levels(caplog, *story) == ["INFO", "DEBUG", "DEBUG", "INFO", "INFO", "INFO"]
    assert [record.getMessage() for record in caplog.records][:2] == ["no quota"] * 2
    first = vars(caplog.records[0])
    assert (first["resource"], first["result"], first["reason"]) == ("team/chat", "blocked", "QuotaExceeded")
    assert (first["writes"], first["seconds"], first["retry_in"]) == (0, 0.1, 30)


def test_it_is_said_again_after_something_else_and_when_something_was_written(caplog: pytest.LogCaptureFixture) -> None:
    assert levels(caplog, blocked(), well(0), blocked(), blocked(writes=1)) == ["INFO", "DEBUG", "INFO", "INFO"]


def test_a_failure_is_a_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    failed = Ended("failed", 1, message="GET /: away", retry_in=2), OSError("away")
    other = Ended("failed", 1, message="PATCH /: away", retry_in=2), OSError("away")
    assert levels(caplog, failed, failed, other, well(0), failed) == ["WARNING", *["DEBUG"] * 3, "WARNING"]


def test_a_conflict_is_told_once_it_has_to_wait(caplog: pytest.LogCaptureFixture) -> None:
    at_once = Ended("conflict", 1, message="changed", retry_in=0.0), OSError("changed")
    later = Ended("conflict", 1, message="changed at last", retry_in=2.0), OSError("changed")
    assert levels(caplog, at_once, later) == ["DEBUG", "WARNING"]


def test_what_is_gone_is_forgotten_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    gone = Ended("gone", 0.1), None
    assert levels(caplog, well(1), gone, gone) == ["INFO", "INFO", "DEBUG"]
    ledger = Ledger()
    ledger.note(KEY, well(1)[0])
    assert [key for key, _ in ledger.entries()] == [KEY]
    ledger.note(KEY, gone[0])
    assert list(ledger.entries()) == []
    assert ledger.last(KEY) is None


def test_a_mistake_of_ours_is_an_error_each_time_with_its_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    fault = Ended("fault", 0.1, reason="InternalError", message="ZeroDivisionError: 0", retry_in=1), ValueError("0")
    assert levels(caplog, fault, fault) == ["ERROR", "ERROR"]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]


def test_every_pass_is_counted_and_retries_apart() -> None:
    meter = Meter()
    ledger = Ledger(meter)
    for ended, error in (
        well(1),
        (Ended("unchanged", 0.2, retry_in=90), None),
        blocked(),
        (Ended("gone", 0.3), OSError()),
    ):
        ledger.note(KEY, ended, error)
    assert meter.passes == [
        ("written", 0.1, False),
        ("unchanged", 0.2, False),
        ("blocked", 0.1, True),
        ("gone", 0.3, False),
    ]
