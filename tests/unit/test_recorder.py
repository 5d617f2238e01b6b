"""Events are said once, counted when they repeat, bounded in number, and never disturb who says them."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import pytest

from virtualtime import virtual_time
from vllm_operator.errors import Blocked, OperatorError, Transient
from vllm_operator.recorder import Recorder

MINUTE = 60.0


@dataclass(frozen=True)
class Subject:
    name: str = "chat"
    namespace: str = "team"
    uid: str = "u1"


class FakeEvents:
    """The Events of an API server, as far as a recorder uses them."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.failure: OperatorError | None = None

    async def create_event(self, namespace: str, event: dict[str, Any]) -> bool:
        self._called("create")
        assert namespace == event["metadata"]["namespace"]
        name = event["metadata"]["name"]
        if name in self.stored:
            return False
        self.stored[name] = event
        return True

    async def patch_event(self, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any] | None:
        assert namespace == "team"
        self._called("patch")
        if name not in self.stored:
            return None
        self.stored[name] = {**self.stored[name], **patch}
        return self.stored[name]

    def _called(self, call: str) -> None:
        self.calls.append(call)
        if self.failure:
            raise self.failure

    @property
    def counts(self) -> list[int]:
        return [event["count"] for event in self.stored.values()]


@virtual_time
async def test_the_same_is_written_once_and_counted_every_ten_minutes() -> None:
    events = FakeEvents()
    recorder = Recorder(events)
    for _ in range(12):
        await recorder.record(Subject(), "Warning", "Blocked", "no quota")
        await asyncio.sleep(5 * MINUTE)
    assert events.calls == ["create"] + ["patch"] * 5
    assert events.counts == [6]


@virtual_time
async def test_what_differs_is_another_event() -> None:
    events = FakeEvents()
    recorder = Recorder(events)
    await recorder.record(Subject(), "Warning", "Blocked", "no quota")
    await recorder.record(Subject(), "Warning", "Blocked", "no node")
    await recorder.record(Subject(), "Warning", "Refused", "no node")
    await recorder.record(Subject(uid="u2"), "Warning", "Refused", "no node")
    assert events.calls == ["create"] * 4
    assert len(events.stored) == 4


@virtual_time
async def test_a_restarted_operator_counts_the_same_event_up() -> None:
    events = FakeEvents()
    await Recorder(events).record(Subject(), "Normal", "Ready", "it serves")
    restarted = Recorder(events)
    await restarted.record(Subject(), "Normal", "Ready", "it serves")
    await asyncio.sleep(11 * MINUTE)
    await restarted.record(Subject(), "Normal", "Ready", "it serves")
    assert events.counts == [2]


@virtual_time
async def test_an_expired_event_is_written_anew() -> None:
    events = FakeEvents()
    recorder = Recorder(events)
    for _ in range(3):
        await recorder.record(Subject(), "Normal", "Ready", "it serves")
        events.stored.clear()
        await asyncio.sleep(61 * MINUTE)
    assert events.calls == ["create", *["patch", "create"] * 2]


@virtual_time
async def test_a_noisy_resource_is_held_back_and_others_are_not() -> None:
    events = FakeEvents()
    recorder = Recorder(events)
    for number in range(100):
        await recorder.record(Subject(), "Warning", "Noise", f"number {number}")
    assert len(events.stored) == 25
    await recorder.record(Subject("other", uid="u2"), "Normal", "Ready", "it serves")
    assert len(events.stored) == 26
    await asyncio.sleep(10 * MINUTE)
    for number in range(100, 200):
        await recorder.record(Subject(), "Warning", "Noise", f"number {number}")
    assert len(events.stored) == 28


@pytest.mark.parametrize("failure", [Transient("the server is away"), Blocked("Forbidden", "may not create events")])
@virtual_time
async def test_a_failure_is_logged_and_the_event_said_again(
    failure: OperatorError, caplog: pytest.LogCaptureFixture
) -> None:
    events = FakeEvents()
    recorder = Recorder(events)
    events.failure = failure
    with caplog.at_level(logging.WARNING):
        await recorder.record(Subject(), "Normal", "Ready", "it serves")
    assert str(failure) in caplog.text
    events.failure = None
    await recorder.record(Subject(), "Normal", "Ready", "it serves")
    assert events.counts == [1]


@virtual_time
async def test_an_event_says_who_what_and_when() -> None:
    events = FakeEvents()
    await Recorder(events).record(Subject("a" * 253), "Warning", "Blocked", "ü" * 2000)
    (event,) = events.stored.values()
    assert len(event["metadata"]["name"]) <= 253
    assert event["involvedObject"] == {
        "apiVersion": "vllm-operator.dev/v1alpha1",
        "kind": "VLLMDeployment",
        "name": "a" * 253,
        "namespace": "team",
        "uid": "u1",
    }
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "Blocked", 1)
    assert event["message"].endswith("ü...")
    assert len(event["message"].encode()) <= 1024


@virtual_time
async def test_memory_is_bounded() -> None:
    events = FakeEvents()
    recorder = Recorder(events)
    for number in range(5000):
        await recorder.record(Subject(uid=f"u{number}"), "Normal", "Ready", "it serves")
    assert len(events.stored) == 5000
    remembered = vars(recorder)
    assert len(remembered["_said"]) == len(remembered["_allowances"]) == 4096
