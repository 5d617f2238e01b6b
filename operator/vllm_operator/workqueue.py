"""A keyed queue with client-go's semantics (https://pkg.go.dev/k8s.io/client-go/util/workqueue); knows no Kubernetes.

A key is never handed out twice at once; however often it is added while somebody works on it, it runs once more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

K = TypeVar("K", bound=Hashable)

# What rarely comes alone is gathered for so long; when nothing else is to be done, the first few runs begin at once: as
# many as it takes to see a resource from its creation to its first ready server.
_SOON_SECONDS = 0.5
_HURRIED = 10.0
_HURRIED_KEYS = 4096


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds between attempts: they double from `first` to `longest`, each cut by up to half at random."""

    first: float = 0.5
    longest: float = 300.0

    def delay(self, failures: int, fraction: float) -> float:
        """Delay after so many failures in a row (1 or more); `fraction` in [0, 1) is how much of the half to cut."""
        doublings = min(failures - 1, 32)  # keeps the power small; the cap is reached long before
        return min(self.longest, self.first * 2.0**doublings) * (1 - fraction / 2)


@dataclass(frozen=True, slots=True)
class Standing(Generic[K]):
    """Where a key stands: it has been running or waiting for so many seconds, or is delayed for as many more."""

    key: K
    state: Literal["running", "waiting", "delayed"]
    seconds: float
    failures: int


class _Haste(Generic[K]):
    """How often in a row a key may be hurried: a token bucket for each key that was, of late."""

    def __init__(self) -> None:
        self._tokens: dict[K, tuple[float, float]] = {}  # key -> tokens left, and when that was so

    def take(self, key: K, now: float) -> bool:
        """Whether the key may be hurried at this moment. Asking costs a token, so what never rests never is."""
        left, since = self._tokens.pop(key, (_HURRIED, now))
        left = min(_HURRIED, left + (now - since) / _SOON_SECONDS)
        if len(self._tokens) >= _HURRIED_KEYS:
            self._tokens.clear()  # to be generous costs little
        self._tokens[key] = (max(left - 1, -1.0), now)
        return left >= 1


class QueueClosed(Exception):  # noqa: N818 - not a failure: the queue has nothing more to give
    """The queue hands out no more keys."""


class WorkQueue(Generic[K]):
    """Keys that are due, in the order in which they became so. All methods belong to one event loop."""

    def __init__(self, backoff: Backoff | None = None, jitter: Callable[[], float] = random.random) -> None:
        self._backoff = backoff or Backoff()
        self._jitter = jitter
        self._waiting: dict[K, float] = {}  # key -> when it became due; in that order
        self._running: dict[K, float] = {}  # key -> when it was handed out
        self._again: set[K] = set()  # added while running
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._retries: dict[K, float] = {}  # key -> when its next attempt is due
        self._handed_out = 0.0  # when a key was, last
        self._haste = _Haste[K]()
        self._available = asyncio.Semaphore(0)
        self._closed = False

    def __len__(self) -> int:
        """Keys that are due and wait for a worker."""
        return len(self._waiting)

    @property
    def oldest_age(self) -> float:
        """Seconds for which the first key has been due; 0 when none waits."""
        return max(0.0, self._now() - next(iter(self._waiting.values()))) if self._waiting else 0.0

    @property
    def standstill(self) -> float:
        """Seconds for which a key has been due and none was handed out; 0 when none waits."""
        return min(self.oldest_age, self._now() - self._handed_out)

    @property
    def longest_run(self) -> float:
        """Seconds since the oldest key still being worked on was handed out; 0 when none is."""
        return max(0.0, self._now() - min(self._running.values())) if self._running else 0.0

    @property
    def running(self) -> int:
        """Keys that are being worked on."""
        return len(self._running)

    def standing(self) -> Iterator[Standing[K]]:
        """Every key that runs, waits or is delayed, in that order; a key that runs may be delayed as well."""
        now = self._now()
        for key, since in self._running.items():
            yield Standing(key, "running", now - since, self.failures(key))
        for key, since in self._waiting.items():
            yield Standing(key, "waiting", now - since, self.failures(key))
        for key, timer in self._timers.items():
            yield Standing(key, "delayed", timer.when() - now, self.failures(key))

    def add(self, key: K) -> None:
        """Make a key due now; nothing happens when it already is."""
        if self._closed or key in self._waiting:
            return
        if key in self._running:
            self._again.add(key)
            return
        self._waiting[key] = self._now()
        self._available.release()

    def add_after(self, key: K, seconds: float) -> None:
        """Make a key due later. Of several such wishes the earliest counts, and a run in the meantime fulfils it."""
        due = self._now() + seconds
        pending = self._timers.get(key)
        if self._closed or (pending is not None and pending.when() <= due):
            return
        if pending is not None:
            pending.cancel()
        self._timers[key] = asyncio.get_running_loop().call_at(due, self._elapsed, key)

    def add_soon(self, key: K) -> None:
        """Make a key due for something that rarely comes alone.

        A few times in a row that is at once, while nothing else is to be done; else after half a second, so that one
        run sees all that came meanwhile.
        """
        hurried = self._haste.take(key, self._now())  # whatever else goes on: else what never rests would save up
        if self._waiting or self._running.keys() - {key} or not hurried:
            self.add_after(key, _SOON_SECONDS)
        else:
            self.add(key)

    async def get(self) -> K:
        """The next key; the caller must call `done` with it. Raises QueueClosed once the queue is closed."""
        await self._available.acquire()
        if self._closed:
            self._available.release()  # pass it on to the next one who waits
            raise QueueClosed
        key = next(iter(self._waiting))
        del self._waiting[key]
        self._running[key] = self._handed_out = self._now()
        self._cancel_timer(key)
        return key

    def done(self, key: K) -> None:
        """The key is no longer worked on; it is due again if it was added meanwhile."""
        del self._running[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def retry(self, key: K, backoff: Backoff | None = None, at_least: float = 0.0) -> float:
        """Make a failed key due after its back-off, or another one's; returns the seconds. `forget` starts afresh.

        An attempt before its time, because something happened, neither lengthens the back-off nor puts off the next.
        """
        now = self._now()
        due = self._retries.get(key, now)
        if due <= now:
            self._failures[key] = self._failures.get(key, 0) + 1
        delay = (backoff or self._backoff).delay(self._failures[key], self._jitter())
        delay = max(at_least, min(delay, due - now) if due > now else delay)
        self._retries[key] = now + delay
        self.add_after(key, delay)
        return delay

    def failures(self, key: K) -> int:
        """How many times in a row a key failed that was due."""
        return self._failures.get(key, 0)

    def forget(self, key: K) -> None:
        """The key succeeded, or is gone: its next failure is the first again."""
        self._failures.pop(key, None)
        self._retries.pop(key, None)

    def close(self) -> None:
        """Hand out nothing more; whoever waits in `get`, or comes later, gets QueueClosed."""
        self._closed = True
        for key in tuple(self._timers):
            self._cancel_timer(key)
        self._available.release()

    def _elapsed(self, key: K) -> None:
        del self._timers[key]
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
