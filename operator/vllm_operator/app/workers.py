"""Workers: one pass after another, and what follows from the way each of them ended."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from vllm_operator.app.ledger import Ended, Ledger
from vllm_operator.errors import Blocked, Conflict, Gone, NotLeading, OperatorError, Transient
from vllm_operator.naming import Key
from vllm_operator.workqueue import Backoff, QueueClosed, WorkQueue

log = logging.getLogger(__name__)

PASS_SECONDS = 60.0  # a pass that takes longer is given up and tried again

# Jitter cuts up to half of each delay. What fails while the API server is away is done within so many seconds after it
# is back; meanwhile hardly any attempt becomes a request (`cluster.breaker`).
_TRANSIENT = Backoff(first=0.5, longest=10.0)
# Eight looks in the first ten minutes, then one in about four. The first ones follow soon, because an API server that
# starts answers 403 until it has read its roles.
_BLOCKED = Backoff(first=5.0, longest=300.0)
_AT_ONCE = Backoff(first=0.0, longest=0.0)
_CONFLICTS_AT_ONCE = 3


class Result(Protocol):
    """How a pass ended well."""

    @property
    def writes(self) -> int:
        """How many objects it wrote."""

    @property
    def requeue_after(self) -> float | None:
        """Seconds until the next look, if one is due although nothing happens."""

    @property
    def phase(self) -> str:
        """Phase of the resource."""

    @property
    def reason(self) -> str:
        """Reason of its Ready condition."""


class Reconciler(Protocol):
    """Does one pass; see `reconciler.Reconciler`."""

    async def reconcile(self, key: Key) -> Result:
        """Bring one resource to what its spec says; raises the errors of `errors`."""


class Workers:
    """Take keys from a queue and reconcile them, `count` at a time, until the queue is closed."""

    def __init__(self, reconciler: Reconciler, queue: WorkQueue[Key], count: int, ledger: Ledger | None = None) -> None:
        self._reconciler = reconciler
        self._queue = queue
        self._ledger = ledger or Ledger()
        self._tasks = [asyncio.create_task(self._work(), name=f"worker {number}") for number in range(count)]

    async def drain(self, seconds: float) -> bool:
        """Close the queue and let running passes finish; those that take longer are cancelled. True when none was."""
        self._queue.close()
        _, late = await asyncio.wait(self._tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return not late

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            try:
                await self._pass(key)
            finally:
                self._queue.done(key)

    async def _pass(self, key: Key) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(PASS_SECONDS):
                result = await self._reconciler.reconcile(key)
        except NotLeading as error:  # which is no failure of the resource, and told by who keeps the lease
            log.debug("put off: %s", error, extra={"resource": str(key)})
            self._queue.retry(key, _TRANSIENT)
        except Exception as error:  # noqa: BLE001 - a worker outlives whatever a pass raises
            self._failed(key, error, time.monotonic() - started)
        else:
            self._succeeded(key, result, time.monotonic() - started)

    def _succeeded(self, key: Key, result: Result, seconds: float) -> None:
        self._queue.forget(key)
        if result.requeue_after is not None:
            self._queue.add_after(key, result.requeue_after)
        word = "written" if result.writes else "unchanged"
        ended = Ended(word, seconds, result.writes, result.phase, result.reason, retry_in=result.requeue_after)
        self._ledger.note(key, ended)

    def _failed(self, key: Key, error: Exception, seconds: float) -> None:
        self._sort(key, error)
        match error:
            case Gone():
                self._queue.forget(key)
                word, delay = "gone", None
            case Blocked():
                word, delay = "blocked", self._queue.retry(key, _BLOCKED)
            case Conflict():
                at_once = self._queue.failures(key) < _CONFLICTS_AT_ONCE
                word, delay = "conflict", self._queue.retry(key, _AT_ONCE if at_once else _TRANSIENT)
            case Transient():
                word, delay = "failed", self._queue.retry(key, _TRANSIENT, error.retry_after or 0.0)
            case TimeoutError():
                word, delay = "failed", self._queue.retry(key)
                error = TimeoutError(f"the pass was given up after {PASS_SECONDS:g} seconds")
            case _:
                word, delay = "fault", self._queue.retry(key)
        self._ledger.note(key, _ended_by(error, word, seconds, delay), error)

    def _sort(self, key: Key, error: Exception) -> None:
        """Refusals and failures that pass are counted apart: an outage must not put off what a refusal waits for."""
        last = self._ledger.last(key)
        if isinstance(error, Blocked) != (last is not None and last.result == "blocked"):
            self._queue.forget(key)


def _ended_by(error: Exception, word: str, seconds: float, delay: float | None) -> Ended:
    reason, message = "", str(error)
    if isinstance(error, Blocked):
        reason = error.reason
    elif word == "fault":
        reason, message = "InternalError", f"{type(error).__name__}: {error}"
    elif word == "gone":
        message = ""
    writes = error.writes if isinstance(error, OperatorError) else 0
    return Ended(word, seconds, writes, reason=reason, message=message, retry_in=delay)
