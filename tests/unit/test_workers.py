"""What follows from the way a pass ended: when the next one comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest

from virtualtime import virtual_time
from vllm_operator.app.workers import Workers
from vllm_operator.errors import Blocked, Conflict, Gone, Transient
from vllm_operator.naming import Key
from vllm_operator.workqueue import WorkQueue

KEY = Key("team-a", "chat")
LONG = 3600.0


@dataclass
class Done:
    writes: int = 0
    requeue_after: float | None = None


class Script:
    """Passes that end as written, and then all well."""

    def __init__(self, ends: Sequence[Exception | Done]) -> None:
        self._ends = list(ends)
        self.times: list[float] = []

    async def reconcile(self, key: Key) -> Done:
        assert key == KEY
        self.times.append(asyncio.get_running_loop().time())
        end = self._ends.pop(0) if self._ends else Done()
        if isinstance(end, Exception):
            raise end
        return end


async def pauses(*ends: Exception | Done) -> list[float]:
    """Seconds between the passes that follow from such ends, without jitter."""
    queue, script = WorkQueue[Key](jitter=lambda: 0.0), Script(ends)
    workers = Workers(script, queue, 2)
    queue.add(KEY)
    await asyncio.sleep(LONG)
    assert await workers.drain(1)
    return [later - earlier for earlier, later in pairwise(script.times)]


FORBIDDEN = Blocked("Forbidden", "it may not")
AWAY = Transient("the API server is away")


@virtual_time
async def test_failures_that_pass_are_tried_again_soon_even_after_long() -> None:
    assert await pauses(*[AWAY] * 9) == [0.5, 1, 2, 4, 8, 16, 20, 20, 20]


@virtual_time
async def test_refusals_are_tried_again_at_leisure_but_the_first_time_soon() -> None:
    waits = await pauses(*[FORBIDDEN] * 9)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@virtual_time
async def test_outage_does_not_put_off_what_a_refusal_waits_for() -> None:
    assert await pauses(*[AWAY] * 6, FORBIDDEN, FORBIDDEN, AWAY) == [0.5, 1, 2, 4, 8, 16, 5, 10, 0.5]


@virtual_time
async def test_conflict_is_tried_again_at_once_and_then_with_pauses() -> None:
    assert await pauses(*[Conflict("changed")] * 5) == [0, 0, 0, 4, 8]


@virtual_time
async def test_servers_wish_to_wait_is_respected() -> None:
    assert await pauses(Transient("too many", retry_after=17)) == [17]


@virtual_time
async def test_success_and_departure_start_afresh() -> None:
    assert await pauses(FORBIDDEN, Done(requeue_after=3), FORBIDDEN, Done(requeue_after=3), AWAY) == [5, 3, 5, 3, 0.5]
    assert await pauses(FORBIDDEN, Gone("chat")) == [5]


@virtual_time
async def test_fault_of_ours_is_logged_with_its_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    assert await pauses(ValueError("odd"), ValueError("odd")) == [0.5, 1]
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True, False]
