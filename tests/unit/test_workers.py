"""What follows from each way in which a pass can end, in virtual time."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from virtualtime import virtual_time
from vllm_operator.app.health import ailment
from vllm_operator.app.workers import Workers
from vllm_operator.errors import Blocked, Conflict, Gone, NotLeading, Transient
from vllm_operator.naming import Key
from vllm_operator.workqueue import WorkQueue

KEY = Key("team", "chat")
OTHER = Key("team", "other")


@dataclass(frozen=True)
class Result:
    writes: int = 0
    requeue_after: float | None = None
    phase: str = ""
    reason: str = ""


Outcome = Exception | Result | Callable[[], Awaitable[Result]]


@dataclass
class Toy:
    """A reconciler whose passes end as told; afterwards they end well."""

    outcomes: list[Outcome] = field(default_factory=list)
    passes: list[tuple[float, Key]] = field(default_factory=list)

    async def reconcile(self, key: Key) -> Result:
        self.passes.append((asyncio.get_running_loop().time(), key))
        outcome = self.outcomes.pop(0) if self.outcomes else Result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if isinstance(outcome, Result) else await outcome()

    def gaps(self) -> list[float]:
        """Seconds between the passes."""
        times = [at for at, _ in self.passes]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


@asynccontextmanager
async def working(toy: Toy, count: int = 2) -> AsyncIterator[WorkQueue[Key]]:
    queue = WorkQueue[Key](jitter=lambda: 0.5)
    workers = Workers(toy, queue, count)
    yield queue
    assert await workers.drain(5)


async def run(*outcomes: Outcome, seconds: float = 3600) -> Toy:
    """One resource, whose passes end in these ways."""
    toy = Toy(list(outcomes))
    async with working(toy) as queue:
        queue.add(KEY)
        await asyncio.sleep(seconds)
    return toy


@virtual_time
async def test_a_pass_that_ends_well_is_the_last() -> None:
    assert len((await run()).passes) == 1


@virtual_time
async def test_a_pass_may_ask_for_another() -> None:
    assert (await run(Result(requeue_after=90), Result(writes=1, requeue_after=45))).gaps() == [90, 45]


@virtual_time
async def test_gone_is_the_end_and_forgets_the_failures() -> None:
    toy = Toy([Transient("away"), Transient("away"), Gone("gone"), Transient("away")])
    async with working(toy) as queue:
        queue.add(KEY)
        await asyncio.sleep(60)
        assert len(toy.passes) == 3
        queue.add(KEY)
        await asyncio.sleep(60)
    assert toy.gaps()[-1] == pytest.approx(0.375)


@virtual_time
async def test_blocked_is_looked_at_soon_and_then_about_every_four_minutes() -> None:
    gaps = (await run(*[Blocked("QuotaExceeded", "no quota")] * 20)).gaps()
    assert gaps[:8] == [3.75, 7.5, 15, 30, 60, 120, 225, 225]
    assert len([at for at in itertools.accumulate(gaps) if at <= 600]) <= 12


@virtual_time
async def test_transient_backs_off_and_recovers() -> None:
    toy = await run(*[Transient("away")] * 8)
    assert toy.gaps() == pytest.approx([0.375, 0.75, 1.5, 3, 6, 7.5, 7.5, 7.5])


@virtual_time
async def test_the_servers_own_delay_is_honoured() -> None:
    assert (await run(Transient("slow down", retry_after=17))).gaps() == [17]


@virtual_time
async def test_what_another_may_do_at_this_moment_is_put_off_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "vllm_operator"):
        toy = await run(*[NotLeading("not sent")] * 4)
    assert toy.gaps() == pytest.approx([0.375, 0.75, 1.5, 3])
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert [vars(record)["result"] for record in caplog.records if "result" in vars(record)] == ["unchanged"]


@virtual_time
async def test_a_conflict_is_tried_at_once_three_times() -> None:
    toy = await run(*[Conflict("changed")] * 5)
    assert toy.gaps()[:3] == [0, 0, 0]
    assert min(toy.gaps()[3:]) > 1


@virtual_time
async def test_a_pass_that_takes_too_long_is_given_up_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def hang() -> Result:
        await asyncio.sleep(1e6)
        return Result()

    toy = await run(hang)
    assert toy.gaps() == pytest.approx([60.375])
    assert "given up after 60 seconds" in caplog.text


@virtual_time
async def test_a_mistake_of_ours_shows_its_traceback_once_and_backs_off(caplog: pytest.LogCaptureFixture) -> None:
    toy = await run(*[ZeroDivisionError("by nought")] * 4, KeyError("other"))
    assert toy.gaps() == pytest.approx([0.375, 0.75, 1.5, 3, 6])
    faults = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [bool(record.exc_info) for record in faults] == [True, False, False, False, True]


@virtual_time
async def test_one_resource_does_not_hold_up_another() -> None:
    started = asyncio.Event()

    async def slow() -> Result:
        started.set()
        await asyncio.sleep(50)
        return Result()

    toy = Toy([slow])
    async with working(toy) as queue:
        queue.add(KEY)
        await started.wait()
        before = asyncio.get_running_loop().time()
        queue.add(OTHER)
        await asyncio.sleep(1)
        assert toy.passes[-1] == (before, OTHER)
        await asyncio.sleep(60)


@virtual_time
async def test_draining_lets_a_pass_finish_and_begins_no_other() -> None:
    finished = []

    async def slow() -> Result:
        await asyncio.sleep(10)
        finished.append(1)
        return Result()

    toy, queue = Toy([slow]), WorkQueue[Key]()
    workers = Workers(toy, queue, 1)
    queue.add(KEY)
    queue.add(OTHER)
    await asyncio.sleep(1)
    assert await workers.drain(20)
    assert (len(finished), len(toy.passes)) == (1, 1)


@virtual_time
async def test_draining_cuts_short_what_takes_too_long() -> None:
    cut = []

    async def endless() -> Result:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            cut.append(1)
            raise
        return Result()

    queue = WorkQueue[Key]()
    workers = Workers(Toy([endless]), queue, 1)
    queue.add(KEY)
    await asyncio.sleep(1)
    before = asyncio.get_running_loop().time()
    assert not await workers.drain(20)
    assert (cut, asyncio.get_running_loop().time() - before) == ([1], 20)


@pytest.mark.parametrize(
    ("outcome", "level", "fields"),
    [
        (Result(writes=3), logging.INFO, {"result": "written", "writes": 3}),
        (Result(), logging.DEBUG, {"result": "unchanged", "writes": 0}),
        (Blocked("QuotaExceeded", "no quota"), logging.INFO, {"result": "blocked", "reason": "QuotaExceeded"}),
        (Transient("away"), logging.WARNING, {"result": "failed"}),
        (Conflict("changed"), logging.DEBUG, {"result": "conflict"}),
        (Gone("gone"), logging.DEBUG, {"result": "gone"}),  # as before: nothing was known of it
        (ZeroDivisionError(), logging.ERROR, {"result": "fault", "reason": "InternalError"}),
    ],
)
@virtual_time
async def test_every_pass_is_one_line_with_its_resource(
    outcome: Outcome, level: int, fields: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "vllm_operator"):
        await run(outcome, seconds=0.01)
    record = caplog.records[0]
    assert record.levelno == level
    found = vars(record)
    assert {name: found[name] for name in fields} == fields
    assert found["resource"] == "team/chat"


@virtual_time
async def test_health_notices_what_is_stuck() -> None:
    queue = WorkQueue[Key]()
    assert ailment(queue) == ""
    queue.add(KEY)
    queue.add(OTHER)
    await asyncio.sleep(119)
    assert ailment(queue) == ""
    await asyncio.sleep(2)
    assert ailment(queue) == "resources have been waiting for 121 s, and none is taken up"
    await queue.get()
    await queue.get()
    assert ailment(queue) == ""
    await asyncio.sleep(121)
    assert ailment(queue) == "a pass has been running for 121 s"
    queue.done(KEY)
    queue.done(OTHER)
    assert ailment(queue) == ""


@virtual_time
async def test_a_long_queue_that_moves_is_no_illness() -> None:
    queue = WorkQueue[Key]()
    for number in range(100):
        queue.add(Key("team", f"n{number}"))
    for _ in range(20):
        await asyncio.sleep(50)
        queue.done(await queue.get())
        assert ailment(queue) == ""
    assert queue.oldest_age == 1000
