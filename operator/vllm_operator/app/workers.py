"""Workers: one pass after another, and what follows from the way each of them ended."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from vllm_operator.errors import Blocked, Conflict, Gone, Transient
from vllm_operator.naming import Key
from vllm_operator.workqueue import Backoff, QueueClosed, WorkQueue

log = logging.getLogger(__name__)

PASS_SECONDS = 60.0  # a pass that takes longer is given up and tried again

# Jitter cuts up to half of each delay. What fails while the API server is away is done within so many seconds after it
# is back.
_TRANSIENT = Backoff(first=0.5, longest=20.0)
# Eight looks in the first ten minutes, then one in about four. The first ones follow soon, because an API server that
# starts answers 403 until it has read its roles.
_BLOCKED = Backoff(first=5.0, longest=300.0)
_AT_ONCE = Backoff(first=0.0, longest=0.0)
_CONFLICTS_AT_ONCE = 3
_REMEMBERED_FAULTS = 1000


class Result(Protocol):
    """How a pass ended well."""

    @property
    def writes(self) -> int:
        """How many objects it wrote."""

    @property
    def requeue_after(self) -> float | None:
        """Seconds until the next look, if one is due although nothing happens."""


class Reconciler(Protocol):
    """Does one pass; see `reconciler.Reconciler`."""

    async def reconcile(self, key: Key) -> Result:
        """Bring one resource to what its spec says; raises the errors of `errors`."""


class Workers:
    """Take keys from a queue and reconcile them, `count` at a time, until the queue is closed."""

    def __init__(self, reconciler: Reconciler, queue: WorkQueue[Key], count: int) -> None:
        self._reconciler = reconciler
        self._queue = queue
        self._faults: set[str] = set()
        self._blocked: set[Key] = set()  # whose last pass was
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
        except Exception as error:  # noqa: BLE001 - a worker outlives whatever a pass raises
            self._failed(key, error)
        else:
            self._succeeded(key, result, time.monotonic() - started)

    def _succeeded(self, key: Key, result: Result, seconds: float) -> None:
        self._done_with(key)
        if result.requeue_after is not None:
            self._queue.add_after(key, result.requeue_after)
        level = logging.INFO if result.writes else logging.DEBUG
        fields = {"result": "written" if result.writes else "unchanged", "writes": result.writes}
        log.log(level, "reconciled", extra={"resource": str(key), **fields, "seconds": round(seconds, 3)})

    def _done_with(self, key: Key) -> None:
        self._queue.forget(key)
        self._blocked.discard(key)

    def _sort(self, key: Key, error: Exception) -> None:
        """Refusals and failures that pass are counted apart: an outage must not put off what a refusal waits for."""
        blocked = isinstance(error, Blocked)
        if blocked != (key in self._blocked):
            self._done_with(key)
        if blocked:
            self._blocked.add(key)

    def _failed(self, key: Key, error: Exception) -> None:
        self._sort(key, error)
        match error:
            case Gone():
                self._done_with(key)
                log.info("gone", extra={"resource": str(key), "result": "gone"})
            case Blocked():
                delay = self._queue.retry(key, _BLOCKED)
                self._tell(logging.INFO, key, "blocked", error, delay)
            case Conflict():
                at_once = self._queue.failures(key) < _CONFLICTS_AT_ONCE
                delay = self._queue.retry(key, _AT_ONCE if at_once else _TRANSIENT)
                self._tell(logging.DEBUG if at_once else logging.WARNING, key, "conflict", error, delay)
            case Transient():
                delay = self._queue.retry(key, _TRANSIENT, error.retry_after or 0.0)
                self._tell(logging.WARNING, key, "failed", error, delay)
            case TimeoutError():
                delay = self._queue.retry(key)
                given_up = TimeoutError(f"the pass was given up after {PASS_SECONDS:g} seconds")
                self._tell(logging.WARNING, key, "failed", given_up, delay)
            case _:
                self._fault(key, error, self._queue.retry(key))

    def _tell(self, level: int, key: Key, result: str, error: Exception, delay: float) -> None:
        fields = {"resource": str(key), "result": result, "retry_in": round(delay, 1)}
        if isinstance(error, Blocked):
            fields["reason"] = error.reason
        log.log(level, "%s", error, extra=fields)

    def _fault(self, key: Key, error: Exception, delay: float) -> None:
        """A mistake of ours: with its traceback the first time that it is seen."""
        what = f"{type(error).__name__}: {error}"
        known = what in self._faults
        if len(self._faults) < _REMEMBERED_FAULTS:
            self._faults.add(what)
        fields = {"resource": str(key), "result": "fault", "reason": "InternalError", "retry_in": round(delay, 1)}
        log.error("%s", what, exc_info=None if known else error, extra=fields)
