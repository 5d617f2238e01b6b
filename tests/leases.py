"""A Lease in memory, behind a network that can be slow, lose answers, hang and refuse, and who stands for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from vllm_operator.errors import Conflict, LeaseLost
from vllm_operator.lease import Election, Record, Terms

TERMS = Terms(duration=15, deadline=10, retry=2)


@dataclass
class Shelf:
    """Where the Lease is kept, as an API server keeps it: every write has a version, and a stale one is refused."""

    record: Record | None = None
    writes: int = 0
    slowness: float = 0.0  # seconds until an answer arrives; what is asked takes effect at once
    hang_next: int = 0  # requests that are swallowed
    lose_next: int = 0  # writes that take effect, but whose answers are lost
    fail: Exception | None = None
    doors: list[Door] = field(default_factory=list)

    def door(self) -> Door:
        """The way of one candidate to the Lease."""
        self.doors.append(Door(self))
        return self.doors[-1]

    def put(self, record: Record) -> Record:
        """Write whatever it held before."""
        self.writes += 1
        self.record = replace(record, version=str(self.writes))
        return self.record


@dataclass
class Door:
    """A `lease.Store`; what is set here concerns one candidate alone."""

    shelf: Shelf
    hangs: bool = False
    fail: Exception | None = None

    async def get(self) -> Record | None:
        """The Lease."""
        await self._pass()
        found = self.shelf.record
        await asyncio.sleep(self.shelf.slowness)
        return found

    async def create(self, record: Record) -> Record:
        """Make the Lease."""
        await self._pass()
        if self.shelf.record is not None:
            raise Conflict("it exists")
        return await self._answer(self.shelf.put(record))

    async def replace(self, record: Record) -> Record:
        """Overwrite the Lease."""
        await self._pass()
        if self.shelf.record is None or self.shelf.record.version != record.version:
            raise Conflict("it has changed")
        return await self._answer(self.shelf.put(record))

    async def _pass(self) -> None:
        if failure := self.fail or self.shelf.fail:
            raise failure
        if self.hangs:
            await asyncio.Event().wait()
        if self.shelf.hang_next:
            self.shelf.hang_next -= 1
            await asyncio.Event().wait()

    async def _answer(self, written: Record) -> Record:
        if self.shelf.lose_next:
            self.shelf.lose_next -= 1
            await asyncio.Event().wait()
        await asyncio.sleep(self.shelf.slowness)
        return written


def candidate(shelf: Shelf, name: str, terms: Terms = TERMS) -> Election:
    """One more that stands for it."""
    return Election(shelf.door(), name, terms, clock=now, jitter=lambda: 0.5)


def now() -> float:
    """The loop's clock, by which candidates go."""
    return asyncio.get_running_loop().time()


async def seconds(waiting: Awaitable[object]) -> float:
    """How long something takes."""
    began = now()
    await waiting
    return now() - began


async def leader(shelf: Shelf, name: str = "a") -> Election:
    """The first that stands for it, and leads."""
    election = candidate(shelf, name)
    await election.campaign()
    return election


async def loses(election: Election) -> str:
    """Let it lead until it loses the Lease; why."""
    with pytest.raises(LeaseLost) as caught:
        await asyncio.wait_for(election.keep(), 3600)
    return str(caught.value)


@asynccontextmanager
async def keeping(election: Election) -> AsyncIterator[None]:
    """It renews meanwhile, and does not end."""
    task = asyncio.create_task(election.keep())
    yield
    assert not task.done(), task
    task.cancel()
