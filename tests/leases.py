"""A Lease in memory, behind a network that can be slow, lose answers, hang and refuse."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from vllm_operator.errors import Conflict
from vllm_operator.lease import Record


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
