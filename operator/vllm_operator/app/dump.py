"""The operator's inside, told to the log when somebody asks: SIGUSR1 the queue and the last results, SIGUSR2 stacks.

By signal and not by HTTP: who may send one may see it all anyway, while the port for probes and metrics answers
everybody who can reach the pod.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vllm_operator.app.ledger import Ended, Ledger
from vllm_operator.app.logs import DUMP
from vllm_operator.naming import Key
from vllm_operator.workqueue import Standing, WorkQueue

log = logging.getLogger(DUMP)

MOST_RESOURCES = 1000
_MOST_TASKS = 200
_FRAMES = 12


@contextmanager
def dumping_on_signals(queue: WorkQueue[Key], ledger: Ledger) -> Iterator[None]:
    """Dump meanwhile when a signal asks; belongs into the running event loop and the main thread."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, dump, queue, ledger)

    def tell(_: int, frame: FrameType | None) -> None:
        stacks(loop, frame)

    # A handler of the loop would wait for the loop, and a blocked one is what is looked for.
    former = signal.signal(signal.SIGUSR2, tell)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
        signal.signal(signal.SIGUSR2, former)


def dump(queue: WorkQueue[Key], ledger: Ledger) -> None:
    """One line for the whole and one per resource, busy ones first; at most MOST_RESOURCES of them."""
    standing: dict[Key, list[Standing[Key]]] = {}
    for one in queue.standing():
        standing.setdefault(one.key, []).append(one)
    keys = list(dict.fromkeys([*standing, *(key for key, _ in ledger.entries())]))
    shown = min(len(keys), MOST_RESOURCES)
    counts = {"waiting": len(queue), "running": queue.running, "resources": len(keys), "shown": shown}
    log.info("the work queue", extra={"details": counts})
    now = time.monotonic()
    for key in keys[:shown]:
        details = _line(standing.get(key, ()), ledger.last(key), now)
        log.info("a resource", extra={"resource": str(key), "details": details})


def _line(standing: Sequence[Standing[Key]], ended: Ended | None, now: float) -> dict[str, Any]:
    """Seconds since when it runs or waits, or until when it is delayed; and how its last pass ended."""
    line: dict[str, Any] = {one.state: round(one.seconds, 1) for one in standing}
    line["failures"] = standing[0].failures if standing else 0
    if ended:
        line["last"] = {**ended.fields(), "message": ended.message, "ago": round(now - ended.at, 1)}
    return line


def stacks(loop: asyncio.AbstractEventLoop, frame: FrameType | None) -> None:
    """Where the main thread is and where every task waits, innermost last."""
    log.info("the main thread", extra={"details": {"stack": [*_callers(frame)][::-1]}})
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    for task in tasks[:_MOST_TASKS]:
        log.info("a task", extra={"details": {"task": task.get_name(), "stack": [*_awaits(task)]}})


def _callers(frame: FrameType | None) -> Iterator[str]:
    """The innermost calls, itself first."""
    for _ in range(_FRAMES):
        if frame is None:
            return
        yield _place(frame)
        frame = frame.f_back


def _awaits(task: asyncio.Task[Any]) -> Iterator[str]:
    """The chain of awaits: `Task.get_stack` has the outermost frame alone."""
    waiting: Any = task.get_coro()
    for _ in range(_FRAMES):
        frame: FrameType | None = getattr(waiting, "cr_frame", None)
        if frame is None:
            return
        yield _place(frame)
        waiting = waiting.cr_await


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"
