"""In whose name is written, and for how long he may."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from vllm_operator.errors import NotLeading


def _for_ever() -> float:
    return math.inf


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes: his name for the audit log, and how many seconds he still may (see `lease.Election.time_left`)."""

    identity: str = ""
    time_left: Callable[[], float] = _for_ever

    def seconds_for(self, call: str) -> float | None:
        """Seconds that a write which is sent now may take, None for any number; NotLeading when it may not be sent."""
        left = self.time_left()
        if left <= 0:
            raise NotLeading(f"{call} was not sent: another operator may lead by now.")
        return None if left == math.inf else left
