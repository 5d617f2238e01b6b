"""A process of the operator's own parts that falls ill on purpose: `python -m unwell PORT blocked|stuck`.

Limits are shortened, so that a test need not wait for minutes.
"""

from __future__ import annotations

import asyncio
import sys
import time

from vllm_operator.app import configure_logging, health, instruments, pulse, workers
from vllm_operator.app.instruments import Instruments
from vllm_operator.app.workers import Workers
from vllm_operator.naming import Key
from vllm_operator.telemetry import Telemetry
from vllm_operator.workqueue import WorkQueue

BLOCKED_SECONDS = 2.5
LATE_SECONDS = 1.0
LATELY_SECONDS = 3.0


class _Result:
    writes, requeue_after, phase, reason = 0, None, "", ""


class _Patient:
    """Reconciles as its illness has it; only the resource called `ill` is."""

    def __init__(self, illness: str) -> None:
        self._illness = illness

    async def reconcile(self, key: Key) -> _Result:
        if key.name == "ill":
            await {"blocked": self.block, "stuck": self.stick}[self._illness]()
        return _Result()

    async def block(self) -> None:
        time.sleep(BLOCKED_SECONDS)  # noqa: ASYNC251 - the very mistake

    async def stick(self) -> None:
        """Wait for good, and take no notice of being given up."""
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue


async def _live(port: int, illness: str) -> None:
    queue = WorkQueue[Key]()
    looking = Instruments(queue, Telemetry())
    async with looking.serving(port, lambda: True, lambda: True):
        working = Workers(_Patient(illness), queue, 2, looking.ledger)
        queue.add(Key("team", "well"))
        await asyncio.to_thread(sys.stdin.readline)  # until it was seen well
        queue.add(Key("team", "ill"))
        await asyncio.sleep(60)
        await working.drain(1)


def main() -> None:
    port, illness = int(sys.argv[1]), sys.argv[2]
    configure_logging("info", "json")
    health.LATE_SECONDS = pulse.LATE_SECONDS = LATE_SECONDS  # type: ignore[attr-defined]
    instruments._LATELY = LATELY_SECONDS
    workers.PASS_SECONDS = 0.3
    health._LONGEST_RUN = 0.6
    asyncio.run(_live(port, illness))


if __name__ == "__main__":
    main()
