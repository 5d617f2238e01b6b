"""What is said of each pass: one line of the log per decision, a count, and the last result for whoever asks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from vllm_operator.naming import Key

log = logging.getLogger(__name__)

_REMEMBERED_FAULTS = 1000
_LEVELS = {"written": logging.INFO, "blocked": logging.INFO, "failed": logging.WARNING, "conflict": logging.WARNING}


class Meter(Protocol):
    """Who counts passes; see `telemetry.Telemetry`."""

    def passed(self, result: str, seconds: float, *, retried: bool) -> None:
        """A pass ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a pass ended: in one of `telemetry.RESULTS`, after so many seconds."""

    result: str
    seconds: float
    writes: int = 0
    phase: str = ""  # of the resource
    reason: str = ""  # of its Ready condition, or why it is blocked
    message: str = ""  # of the error
    retry_in: float | None = None
    at: float = field(default_factory=time.monotonic)

    def repeats(self, earlier: Ended | None) -> bool:
        """Whether it ends as an earlier one did, for the same reason; in an outage every request fails in its way."""
        return earlier is not None and self._essence() == earlier._essence()

    def _essence(self) -> tuple[str, ...]:
        return (self.result,) if self.result == "failed" else (self.result, self.reason, self.message)

    def fields(self) -> dict[str, object]:
        """What a log line says of it beside the message; nothing of what is unknown."""
        known: dict[str, object] = {"result": self.result, "phase": self.phase, "reason": self.reason}
        return {
            **{name: value for name, value in known.items() if value},
            "writes": self.writes,
            "seconds": round(self.seconds, 3),
            **({} if self.retry_in is None else {"retry_in": round(self.retry_in, 1)}),
        }


class Ledger:
    """The last result of every resource."""

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter
        self._last: dict[Key, Ended] = {}
        self._faults: set[str] = set()

    def last(self, key: Key) -> Ended | None:
        """How the last pass over a resource ended; None before the first, and once it is gone."""
        return self._last.get(key)

    def entries(self) -> Iterator[tuple[Key, Ended]]:
        """All of them."""
        yield from self._last.items()

    def note(self, key: Key, ended: Ended, error: Exception | None = None) -> None:
        """Count a pass, say how it ended unless the last one ended the same way, and remember it."""
        if self._meter:
            self._meter.passed(ended.result, ended.seconds, retried=ended.retry_in is not None and error is not None)
        earlier = self._last.pop(key, None)
        if ended.result != "gone":
            self._last[key] = ended
        fields = {"resource": str(key), **ended.fields()}
        if ended.result == "fault" and error:
            log.error("%s", ended.message, exc_info=self._first_time(ended.message, error), extra=fields)
        else:
            log.log(_level(ended, earlier), "%s", ended.message or _said(ended), extra=fields)

    def _first_time(self, message: str, error: Exception) -> Exception | None:
        """The traceback of a mistake of ours is told once."""
        if message in self._faults:
            return None
        if len(self._faults) < _REMEMBERED_FAULTS:
            self._faults.add(message)
        return error


def _said(ended: Ended) -> str:
    return "gone" if ended.result == "gone" else "reconciled"


def _level(ended: Ended, earlier: Ended | None) -> int:
    """What says nothing new is for those who debug: the same refusal again, a second look at what is gone."""
    if ended.result == "gone":
        return logging.INFO if earlier else logging.DEBUG
    if not ended.writes and ended.repeats(earlier):
        return logging.DEBUG
    if ended.result == "conflict" and not ended.retry_in:  # tried again at once
        return logging.DEBUG
    return _LEVELS.get(ended.result, logging.DEBUG)
