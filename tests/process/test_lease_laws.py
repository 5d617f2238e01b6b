"""Whatever happens to the candidates and to their network: never do two of them write at once, and soon one does again.

A candidate is the real election and a writer that asks it before every write, as `cluster.Author` does. Candidates are
stopped and continued like processes, cut off, slowed down, robbed of answers, refused and killed, each alone or all at
once. Who leads may fall silent and go on, as long as nobody else wrote in between. What stops or cuts off all of them
for a while, as an outage of the API server does, changes no leader.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from virtualtime import VirtualTimeLoop
from vllm_operator.errors import Blocked, Conflict, LeaseLost
from vllm_operator.lease import Election, Record, Terms

Answer = TypeVar("Answer")

TERMS = Terms(duration=15, deadline=10, retry=2)
MARGIN = TERMS.duration - TERMS.deadline
WRITE_EVERY = 0.3
CANDIDATES = 3


@dataclass
class World:
    """The API server's side: the Lease, and who wrote what when it took effect."""

    record: Record | None = None
    version: int = 0
    wrote: list[tuple[float, str]] = field(default_factory=list)

    def put(self, record: Record, expected: Record | None) -> Record:
        if (self.record and self.record.version) != (expected and expected.version):
            raise Conflict("stale")
        self.version += 1
        self.record = replace(record, version=str(self.version))
        return self.record


@dataclass
class Candidate:
    """One process, and its way to the API server."""

    world: World
    name: str
    runs: asyncio.Event = field(default_factory=asyncio.Event)
    delays: tuple[float, float] = (0.0, 0.0)  # of a request, of its answer
    refuses_until: float = 0.0
    cut_until: float = 0.0
    loses: int = 0
    task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.runs.set()
        self.task = asyncio.create_task(paused(self._live(), self.runs))

    async def _live(self) -> None:
        election = Election(self, self.name, TERMS, clock=now)
        await election.campaign()
        writing = asyncio.create_task(paused(self._write(election), self.runs))
        try:
            await election.keep()
        except LeaseLost:
            return
        finally:
            writing.cancel()

    async def _write(self, election: Election) -> None:
        while True:
            if election.time_left() > 0:
                # What was sent arrives some time later, whatever becomes of its author.
                asyncio.get_running_loop().call_later(self.delays[0], self.world.wrote.append, (now(), self.name))
            await asyncio.sleep(WRITE_EVERY)

    # --- lease.Store

    async def get(self) -> Record | None:
        await self._reach()
        return await self._hear(self.world.record)

    async def create(self, record: Record) -> Record:
        await self._reach()
        return await self._hear(self.world.put(record, None))

    async def replace(self, record: Record) -> Record:
        """A request that was sent takes effect although nobody waits for its answer any more."""
        await self._reach(0)
        taken = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(self.delays[0], self._arrive, record, taken)
        return await self._hear(await taken)

    def _arrive(self, record: Record, taken: asyncio.Future[Record]) -> None:
        try:
            written = self.world.put(record, record)
        except Conflict as error:
            if not taken.done():
                taken.set_exception(error)
        else:
            if not taken.done():
                taken.set_result(written)

    async def _reach(self, delay: float | None = None) -> None:
        if now() < self.refuses_until:
            raise Blocked("Forbidden", "no")
        if now() < self.cut_until:
            await asyncio.Event().wait()
        await asyncio.sleep(self.delays[0] if delay is None else delay)

    async def _hear(self, answer: Answer) -> Answer:
        if self.loses:
            self.loses -= 1
            await asyncio.Event().wait()
        await asyncio.sleep(self.delays[1])
        if now() < self.cut_until:
            await asyncio.Event().wait()
        return answer


def now() -> float:
    return asyncio.get_running_loop().time()


@types.coroutine
def paused(coroutine: Coroutine[Any, Any, None], runs: asyncio.Event) -> Generator[Any, Any, None]:
    """Run a coroutine, but not while `runs` is unset: what it waited for, and time-outs too, reach it afterwards."""
    step: Any = lambda: coroutine.send(None)  # noqa: E731
    while True:
        while not runs.is_set():
            try:
                yield from runs.wait().__await__()
            except asyncio.CancelledError as error:
                step = lambda error=error: coroutine.throw(error)  # noqa: E731
        try:
            future = step()
        except StopIteration:
            return
        try:
            yield future
        except asyncio.CancelledError as error:
            step = lambda error=error: coroutine.throw(error)  # noqa: E731
        else:
            step = lambda: coroutine.send(None)  # noqa: E731


def long(most: float) -> st.SearchStrategy[float]:
    return st.floats(0, most, allow_nan=False).map(lambda seconds: round(seconds, 2))


WHAT = st.one_of(
    st.tuples(st.just("stop"), long(40)),
    st.tuples(st.just("cut off"), long(40)),
    st.tuples(st.just("refuse"), long(40)),
    st.tuples(st.just("slow"), long(MARGIN - WRITE_EVERY)),
    st.tuples(st.just("deaf"), long(4)),
    st.tuples(st.just("lose"), st.just(1.0)),
    st.tuples(st.just("kill"), st.just(0.0)),
)
EVERYBODY = (*range(CANDIDATES),)
WHO = st.sampled_from([*((one,) for one in EVERYBODY), EVERYBODY])
Event = tuple[float, tuple[int, ...], tuple[str, float]]
EVENTS = st.lists(st.tuples(long(12), WHO, WHAT), max_size=25)

# Between two outages the leader has time to renew, once, on connections that hang when the first one ends.
RENEWED = TERMS.answer + TERMS.retry
LATENCY = 0.5
OUTAGE = st.tuples(
    long(20).map(lambda seconds: RENEWED + 4 * LATENCY + seconds),
    st.sampled_from(["stop", "cut off", "refuse"]),
    st.one_of(long(2 * TERMS.duration), long(120)),
)


def _let_happen(candidate: Candidate, what: str, amount: float) -> None:
    match what:
        case "stop":
            candidate.runs.clear()
            asyncio.get_running_loop().call_later(amount, candidate.runs.set)
        case "cut off":
            candidate.cut_until = now() + amount
        case "refuse":
            candidate.refuses_until = now() + amount
        case "slow":
            candidate.delays = (amount, candidate.delays[1])
        case "deaf":
            candidate.delays = (candidate.delays[0], amount)
        case "lose":
            candidate.loses += 1
        case "kill":
            assert candidate.task is not None
            candidate.task.cancel()
            candidate.runs.set()


def _revive(candidates: list[Candidate], generation: int) -> None:
    """The kubelet starts anew what has ended."""
    for number, candidate in enumerate(candidates):
        if candidate.task is None or candidate.task.done():
            candidates[number] = Candidate(candidate.world, f"{number}-{generation}")
            candidates[number].start()


async def _end(candidates: list[Candidate]) -> None:
    tasks = [candidate.task for candidate in candidates if candidate.task]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _story(events: list[Event]) -> tuple[World, float]:
    """What was written, and when the last trouble was over."""
    world = World()
    candidates = [Candidate(world, str(number)) for number in range(CANDIDATES)]
    _revive(candidates, 0)
    for generation, (pause, who, (what, amount)) in enumerate(events, 1):
        await asyncio.sleep(pause)
        for one in who:
            _let_happen(candidates[one], what, amount)
        await asyncio.sleep(0.1)
        _revive(candidates, generation)
    await asyncio.sleep(50)  # the longest trouble is over
    for candidate in candidates:
        candidate.delays, candidate.loses = (0.0, 0.0), 0
    _revive(candidates, len(events) + 1)
    healed = now()
    await asyncio.sleep(2 * TERMS.duration)
    await _end(candidates)
    return world, healed


@given(EVENTS)
def test_no_two_ever_write_in_turns_and_soon_one_writes_again(events: list[Event]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        world, healed = runner.run(_story(events))
    reigns = [name for name, _ in groupby(name for _, name in world.wrote)]
    assert len(reigns) == len(set(reigns)), f"somebody wrote after another had begun to: {reigns}"
    assert world.wrote[-1][0] > healed, "nobody leads any more"


async def _outages(events: list[tuple[float, str, float]], delays: tuple[float, float]) -> tuple[World, list[float]]:
    """What was written, and when each outage was over."""
    world, over = World(), list[float]()
    candidates = [Candidate(world, str(number), delays=delays) for number in EVERYBODY]
    for candidate in candidates:
        candidate.start()
    for calm, what, amount in events:
        await asyncio.sleep(calm)
        for candidate in candidates:
            _let_happen(candidate, what, amount)
        await asyncio.sleep(amount)
        over.append(now())
    await asyncio.sleep(2 * TERMS.duration)
    await _end(candidates)
    return world, over


@given(st.lists(OUTAGE, min_size=1, max_size=6), st.tuples(long(LATENCY), long(LATENCY)))
def test_after_an_outage_for_everybody_the_same_one_leads(
    events: list[tuple[float, str, float]], delays: tuple[float, float]
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        world, over = runner.run(_outages(events, delays))
    assert len({name for _, name in world.wrote}) == 1, "the leader changed"
    soon = RENEWED + 4 * LATENCY + WRITE_EVERY
    assert all(any(end < at <= end + soon for at, _ in world.wrote) for end in over), "nobody writes soon"
