"""Leader election by a Lease that fences itself: of several processes one may write, and never two at once.

The record and its rules are those of client-go (tools/leaderelection), so that kubectl and dashboards read it as they
read any other. Beyond them, whoever leads knows until when: `time_left` counts from the moment at which the last
renewal that succeeded was *sent*, and ends a good while before anybody else may take the Lease, who counts from when
he *saw* that renewal. Nothing is sent to the API server once it has run out, and no write waits for an answer longer.

No two clocks are ever compared. A Lease is held for as long as its record changes; the times in it are for people.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NoReturn, Protocol

from vllm_operator.errors import Conflict, LeaseLost, OperatorError

log = logging.getLogger(__name__)

# Renewals that fit between the last one and the deadline although each of them hangs: on fresh connections.
_ATTEMPTS = 3
_LEAST_SECONDS = 0.02  # of a pause, and of a request
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

    @property
    def is_leader(self) -> bool:
        """Whether this candidate leads at this moment."""
        return self.time_left() > 0

    def time_left(self) -> float:
        """Seconds for which this candidate may still write; none when 0 or less."""
        return self._until - self._clock()

    # --- as a follower

    async def campaign(self) -> None:
        """Wait until this candidate leads, through whatever goes wrong."""
        while not self.is_leader:
            try:
                async with asyncio.timeout(self._terms.deadline):
                    pause = await self._stand()
            except (OperatorError, TimeoutError) as error:
                log.warning("the lease cannot be read or taken: %s", str(error) or "no answer")
                pause = self._pause()
            await asyncio.sleep(pause)

    async def _stand(self) -> float:
        """Take the Lease when it is free; seconds until the next look."""
        found = await self._store.get()
        self._see(found)
        if (left := self._taken_for()) > 0:
            return max(_LEAST_SECONDS, min(left, self._pause()))
        sent = self._clock()
        held = await self._take(found)
        self._held, self._until = held, sent + self._terms.deadline
        log.info("leading as %s", self.identity, extra={"holder": self.identity, "transitions": held.transitions})
        return 0.0

    def _see(self, found: Record | None) -> None:
        """A change is a sign of life, a Lease that vanished is none: whoever held it may not know yet."""
        if found is None:
            return
        known = self._seen and replace(self._seen, version=found.version)
        if found == known:
            return
        if found.holder != (known.holder if known else ""):
            log.info("%s leads", found.holder or "nobody", extra={"holder": found.holder})
        self._seen, self._seen_at = found, self._clock()

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
        """Renew until cancelled. Raises LeaseLost when that fails for too long, or the Lease is somebody else's."""
        while True:
            await asyncio.sleep(self._terms.retry)
            await self._renew_in_time()

    async def _renew_in_time(self) -> None:
        while (left := self.time_left()) > 0:
            try:
                async with asyncio.timeout(max(_LEAST_SECONDS, min(left, self._terms.deadline / _ATTEMPTS))):
                    await self._renew()
            except LeaseLost:
                raise
            except (OperatorError, TimeoutError) as error:
                log.warning("the lease was not renewed: %s", str(error) or "no answer", extra={"left": round(left, 1)})
                at_once = isinstance(error, TimeoutError | Conflict)  # it has waited, or has to know who holds it
                await asyncio.sleep(0 if at_once else max(_LEAST_SECONDS, min(self._pause(), self.time_left())))
            else:
                return
        raise self._lost(f"it could not be renewed for {self._terms.deadline:g} s")

    async def _renew(self) -> None:
        held = self._held or await self._own()
        sent = self._clock()
        self._held = None
        self._held = await self._store.replace(replace(held, duration=self._terms.duration, renewed=_now()))
        if not self.is_leader:  # writes have been refused meanwhile: what is over stays over
            raise self._lost("its renewal came too late")
        self._until = sent + self._terms.deadline

    async def _own(self) -> Record:
        """The Lease as it is now, which must still be this candidate's."""
        found = await self._store.get()
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
            async with asyncio.timeout(self._terms.deadline / _ATTEMPTS):
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
