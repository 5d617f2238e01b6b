"""Leader election by a Lease that fences itself: of several processes one may write, and never two at once.

The record and its rules are those of client-go (tools/leaderelection), so that kubectl and dashboards read it as they
read any other. Beyond them, whoever leads knows until when: `time_left` counts from the moment at which the last
renewal that succeeded was *sent*, and ends a good while before anybody else may take the Lease, who counts from when
he *saw* that renewal. Nothing is sent to the API server once it has run out, and no write waits for an answer longer.

An outage of the API server changes no leader. Who could not renew in time is silent, looks on, and leads again if the
Lease still bears his name: a record is only ever written over the very one that was read, and nobody writes another's
name, so nobody else has led. Others count the time in which they could look, and no other.

No two clocks are ever compared. A Lease is held for as long as its record changes; the times in it are for people.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NoReturn, Protocol, TypeVar

from vllm_operator.errors import Conflict, LeaseLost, OperatorError

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

# How long an API server that is away is waited for, in seconds, by who leads and by who starts (`app.process`); watches
# do so for about as long. Ending during an outage would only make the kubelet wait longer and longer before it starts
# the operator again.
OUTAGE_SECONDS = 600.0

# Renewals that fit between the last one and the deadline although each of them hangs: on fresh connections.
_ATTEMPTS = 3
_LEAST_SECONDS = 0.02  # of a pause
_RELEASED_SECONDS = 1  # what client-go leaves behind: zero is not allowed
_NEVER = float("-inf")
# Unlike CLOCK_MONOTONIC it goes on while the machine sleeps and others lead. A process that is stopped stops neither.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says (coordination.k8s.io/v1 LeaseSpec); `version` is the resource version that it was read at."""

    holder: str  # empty: nobody's
    duration: int  # seconds for which it is held without a change
    transitions: int = 0
    acquired: str = ""
    renewed: str = ""
    version: str = ""


class Store(Protocol):
    """Where the Lease is kept. Every method may raise the errors of `errors`."""

    async def get(self) -> Record | None:
        """The Lease; None when there is none."""

    async def create(self, record: Record) -> Record:
        """Make the Lease; Conflict when there is one."""

    async def replace(self, record: Record) -> Record:
        """Overwrite the Lease; Conflict unless it still has the record's version."""


@dataclass(frozen=True, slots=True)
class Terms:
    """In seconds: how long a Lease is held, how long renewing is tried, how often; the defaults are client-go's."""

    duration: int = 15
    deadline: float = 10.0
    retry: float = 2.0

    @property
    def answer(self) -> float:
        """How long an answer is waited for."""
        return self.deadline / _ATTEMPTS


def _boot_clock() -> float:
    return time.clock_gettime(_CLOCK)


def _now() -> str:
    """A MicroTime. Nobody reckons with it; that it differs from one renewal to the next is what matters."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Election:
    """One candidate. Await `campaign`, then `keep` for as long as it leads, then `resign`; it stands only once.

    `clock` is monotonic, in seconds; `jitter` gives numbers in [0, 1).
    """

    def __init__(
        self,
        store: Store,
        identity: str,
        terms: Terms | None = None,
        clock: Callable[[], float] = _boot_clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.identity = identity
        self._store = store
        self._terms = terms or Terms()
        self._clock = clock
        self._jitter = jitter
        self._until = _NEVER
        self._held: Record | None = None  # as last written; None while that is in doubt
        self._seen: Record | None = None  # as last read from somebody else
        self._seen_at = _NEVER
        self._looked_at = _NEVER  # when it was last read
        self._told = False  # that it can be neither read nor written

    @property
    def is_leader(self) -> bool:
        """Whether this candidate leads at this moment."""
        return self.time_left() > 0

    def time_left(self) -> float:
        """Seconds for which this candidate may still write; none when 0 or less."""
        return self._until - self._clock()

    async def _answered(self, request: Awaitable[_Answer]) -> _Answer:
        async with asyncio.timeout(self._terms.answer):
            return await request

    # --- as a follower

    async def campaign(self) -> None:
        """Wait until this candidate leads, through whatever goes wrong."""
        while not self.is_leader:
            try:
                pause = await self._stand()
            except (OperatorError, TimeoutError) as error:
                level = logging.DEBUG if self._told else logging.WARNING
                log.log(level, "the lease cannot be read or taken: %s", str(error) or "no answer")
                self._told = True
                pause = self._pause()
            else:
                self._told = False
            await asyncio.sleep(pause)

    async def _stand(self) -> float:
        """Take the Lease when it is free; seconds until the next look."""
        found = await self._answered(self._store.get())
        self._see(found)
        if (left := self._taken_for()) > 0:
            return max(_LEAST_SECONDS, min(left, self._pause()))
        sent = self._clock()
        held = await self._answered(self._take(found))
        self._held, self._until = held, sent + self._terms.deadline
        log.info("leading as %s", self.identity, extra={"holder": self.identity, "transitions": held.transitions})
        return 0.0

    def _see(self, found: Record | None) -> None:
        """A change is a sign of life, a Lease that vanished is none: whoever held it may not know yet.

        Time in which this candidate did not look does not count: it slept, or was not answered, as the holder perhaps.
        """
        now = self._clock()
        gap, self._looked_at = now - self._looked_at, now
        if self._seen and gap > self._terms.retry + self._terms.answer:
            self._seen_at += gap
        if found is None:
            return
        known = self._seen and replace(self._seen, version=found.version)
        if found == known:
            return
        if found.holder != (known.holder if known else ""):
            log.info("%s leads", found.holder or "nobody", extra={"holder": found.holder})
        self._seen, self._seen_at = found, now

    def _taken_for(self) -> float:
        """Seconds until the Lease is free for this candidate; 0 or less when it is."""
        seen = self._seen
        if seen is None or seen.holder in ("", self.identity):
            return 0.0  # its own: an answer was lost
        return self._seen_at + seen.duration - self._clock()

    async def _take(self, found: Record | None) -> Record:
        now = _now()
        mine = Record(self.identity, self._terms.duration, acquired=now, renewed=now)
        if found is None:
            return await self._store.create(mine)
        changes = int(found.holder != self.identity)
        return await self._store.replace(
            replace(mine, transitions=found.transitions + changes, version=found.version),
        )

    def _pause(self) -> float:
        """Seconds between two attempts, cut by up to a quarter so that candidates do not keep step."""
        return self._terms.retry * (1 - self._jitter() / 4)

    # --- as the leader

    async def keep(self) -> NoReturn:
        """Renew until cancelled. Raises LeaseLost when another may lead, or the Lease is out of reach for ten minutes.

        When it could not be renewed in time this candidate leads no more, and again with the next renewal that
        succeeds.
        """
        pause = self._terms.retry
        while True:
            await asyncio.sleep(pause)
            try:
                await self._renew()
            except LeaseLost:
                raise
            except (OperatorError, TimeoutError) as error:
                pause = self._not_renewed(error)
            else:
                pause = self._terms.retry

    async def _renew(self) -> None:
        held = (self._held if self.is_leader else None) or await self._own()
        sent = self._clock()
        self._held = None
        self._held = await self._answered(
            self._store.replace(replace(held, duration=self._terms.duration, renewed=_now()))
        )
        late = -self.time_left()
        self._until = sent + self._terms.deadline  # which is over when the answer took so long
        if late > 0 and self.is_leader:
            log.info("leading again after %.1f s", late, extra={"holder": self.identity})
            self._told = False

    def _not_renewed(self, error: OperatorError | TimeoutError) -> float:
        """Seconds until the next attempt."""
        why, left = str(error) or "no answer", self.time_left()
        if left > 0:
            log.warning("the lease was not renewed: %s", why, extra={"left": round(left, 1)})
            # It has waited, or has to know who holds it.
            return 0.0 if isinstance(error, TimeoutError | Conflict) else self._pause()
        if left <= -OUTAGE_SECONDS:
            raise self._lost(f"it could not be renewed for {OUTAGE_SECONDS:g} s") from error
        if not self._told:
            self._told = True
            log.error("not leading until the lease is renewed, for which time is up: %s", why)
        return self._pause()

    async def _own(self) -> Record:
        """The Lease as it is now, which must still be this candidate's."""
        found = await self._answered(self._store.get())
        if found is None:
            raise self._lost("it was deleted")
        if found.holder != self.identity:
            raise self._lost(f"{found.holder or 'nobody'} holds it")
        return found

    def _lost(self, why: str) -> LeaseLost:
        self._until = _NEVER
        return LeaseLost(f"The lease is lost: {why}.")

    async def resign(self) -> None:
        """Give the Lease back, so that another need not wait. Call it when nothing that writes is under way any more.

        A failure is only logged: what is not given back runs out.
        """
        self._until = _NEVER
        try:
            async with asyncio.timeout(self._terms.answer):
                held = self._held or await self._store.get()
                if held is None or held.holder != self.identity:
                    return
                now = _now()
                await self._store.replace(
                    replace(held, holder="", duration=_RELEASED_SECONDS, acquired=now, renewed=now)
                )
        except (OperatorError, TimeoutError) as error:
            log.warning("the lease was not given back: %s", str(error) or "no answer")
        else:
            log.info("the lease is given back")
