"""What a dump holds: busy resources first, and never more lines than anybody reads."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from virtualtime import virtual_time
from vllm_operator.app import dump
from vllm_operator.app.ledger import Ended, Ledger
from vllm_operator.app.logs import DUMP
from vllm_operator.naming import Key
from vllm_operator.workqueue import WorkQueue


def dumped(queue: WorkQueue[Key], ledger: Ledger, caplog: pytest.LogCaptureFixture) -> tuple[Any, list[Any]]:
    """The line about the queue, and those about resources."""
    caplog.clear()
    with caplog.at_level(logging.INFO, DUMP):
        dump.dump(queue, ledger)
    first, *rest = [record for record in caplog.records if record.name == DUMP]
    return vars(first)["details"], [(vars(one)["resource"], vars(one)["details"]) for one in rest]


@virtual_time
async def test_every_resource_is_a_line_with_its_place_and_its_last_result(caplog: pytest.LogCaptureFixture) -> None:
    queue, ledger = WorkQueue[Key](jitter=lambda: 0.0), Ledger()
    for name in ("running", "failed", "waiting"):
        queue.add(Key("a", name))
    await queue.get()
    queue.retry(await queue.get())
    queue.done(Key("a", "failed"))
    await asyncio.sleep(0.2)
    ledger.note(Key("a", "failed"), Ended("blocked", 1.5, reason="QuotaExceeded", message="no quota", retry_in=0.5))
    ledger.note(Key("a", "idle"), Ended("unchanged", 0.01, phase="Ready", reason="Available"))
    counts, lines = dumped(queue, ledger, caplog)
    assert counts == {"waiting": 1, "running": 1, "resources": 4, "shown": 4}
    assert [resource for resource, _ in lines] == ["a/running", "a/waiting", "a/failed", "a/idle"]
    found = dict(lines)
    assert found["a/running"] == {"running": 0.2, "failures": 0}
    assert (found["a/failed"]["delayed"], found["a/failed"]["failures"]) == (0.3, 1)
    last = found["a/failed"]["last"]
    assert (last["result"], last["reason"], last["message"]) == ("blocked", "QuotaExceeded", "no quota")
    assert last["ago"] >= 0
    assert found["a/idle"]["last"]["phase"] == "Ready"


@virtual_time
async def test_it_is_bounded_and_shows_the_busy_ones(caplog: pytest.LogCaptureFixture) -> None:
    queue, ledger = WorkQueue[Key](), Ledger()
    for number in range(2000):
        ledger.note(Key("a", f"idle-{number}"), Ended("unchanged", 0.01))
    queue.add(Key("a", "waiting"))
    counts, lines = dumped(queue, ledger, caplog)
    assert (counts["resources"], counts["shown"], len(lines)) == (2001, 1000, 1000)
    assert lines[0][0] == "a/waiting"


async def test_stacks_show_what_each_task_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    async def inner() -> None:
        await asyncio.sleep(60)

    async def outer() -> None:
        await inner()

    task = asyncio.create_task(outer(), name="a patient one")
    await asyncio.sleep(0)
    with caplog.at_level(logging.INFO, DUMP):
        dump.stacks(asyncio.get_running_loop(), None)
    task.cancel()
    details = [vars(record)["details"] for record in caplog.records]
    (stack,) = [one["stack"] for one in details if one.get("task") == "a patient one"]
    assert "outer (" in stack[0]
    assert "inner (" in stack[1]
    assert f"{__file__}:" in stack[1]
