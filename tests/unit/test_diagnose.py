"""How logs and Events are read: once per restart, of few pods, never of healthy ones, and done without if need be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from podstatus import KEY, RUNNING, container, crash, ended, pod
from vllm_operator.diagnose import PATIENCE_SECONDS, READS, Diagnostician, earlier
from vllm_operator.errors import Blocked, Gone, OperatorError, Transient
from vllm_operator.inquiry import Inquiry
from vllm_operator.pods import Pods
from vllm_operator.status.observation import PodTrouble

BAD_FLAG = "vllm serve: error: unrecognized arguments: --frobnicate"
BUSY = "ValueError: Free memory on device cuda:0 ({}/79.1 GiB) on startup is less than desired GPU memory utilization"


@dataclass
class FakeCluster:
    """Logs and Events by pod, errors instead of them, and what was asked for."""

    logs: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    error: OperatorError | None = None
    asked: list[str] = field(default_factory=list)
    now: float = 0.0
    takes: float = 0.0

    def clock(self) -> float:
        return self.now

    async def pod_log(self, namespace: str, pod: str, container: str, *, previous: bool, lines: int) -> str:
        assert (namespace, container, previous, lines) == ("team-a", "vllm", True, 400)
        self.asked.append(f"log {pod}")
        self.now += self.takes
        if self.error:
            raise self.error
        return self.logs.get(pod, "")

    async def events_about(self, namespace: str, uid: str) -> list[dict[str, Any]]:
        assert namespace == "team-a"
        self.asked.append(f"events {uid}")
        self.now += self.takes
        if self.error:
            raise self.error
        return self.events


class World:
    """Pods as they are seen, and what is found out about them."""

    def __init__(self, **logs: str) -> None:
        self.cluster = FakeCluster({name.replace("_", "-"): text for name, text in logs.items()})
        self.pods = Pods(self.cluster.clock)
        self.diagnostician = Diagnostician(self.cluster, self.pods, Inquiry(self.cluster, self.cluster.clock))

    def see(self, *bodies: dict[str, Any]) -> None:
        for body in bodies:
            self.pods.see(KEY, body)

    async def examine(self) -> list[str]:
        """One pass; what was asked for."""
        self.cluster.asked.clear()
        self.wait = await self.diagnostician.examine(KEY)
        return list(self.cluster.asked)

    @property
    def trouble(self) -> PodTrouble:
        found = self.pods.trouble(KEY, "server")
        assert found is not None
        return found

    def is_stalled(self) -> bool:
        return self.trouble.stalled


async def test_a_log_is_read_once_per_restart() -> None:
    world = World(chat_1=BAD_FLAG)
    world.see(crash(1, code=2))
    assert await world.examine() == ["log chat-1"]
    assert world.trouble.reason == "InvalidArguments"
    assert "--frobnicate" in world.trouble.message
    assert await world.examine() == []
    world.see(pod(container("running", restarts=1, last=ended(2))))
    assert await world.examine() == [], "the same end, seen from the next start"
    world.see(crash(2, code=2))
    assert await world.examine() == ["log chat-1"]


async def test_healthy_pods_are_left_alone() -> None:
    world = World(chat_1=BAD_FLAG)
    world.see(pod(RUNNING, phase="Running"), pod(container("running"), name="chat-2", phase="Running"))
    assert await world.examine() == []
    assert world.wait is None


async def test_of_many_pods_few_are_read() -> None:
    world = World(chat_3=BAD_FLAG)
    world.see(*(crash(1, code=2, name=f"chat-{number}") for number in range(1, 9)))
    asked = await world.examine()
    assert len(asked) <= READS
    assert asked[0] == "log chat-1", "the first by name"


async def test_what_will_not_heal_is_told_when_it_happened_twice() -> None:
    world = World(chat_1=BAD_FLAG)
    world.see(crash(1, code=2))
    await world.examine()
    assert not world.is_stalled()
    world.see(crash(2, code=2))
    assert not world.is_stalled(), "not read yet"
    await world.examine()
    assert world.is_stalled()
    world.see(pod(RUNNING, phase="Running"))
    assert world.pods.trouble(KEY, "server") is None, "healed"
    world.see(crash(3, code=2))
    await world.examine()
    assert world.trouble.reason == "InvalidArguments"


async def test_an_operator_that_starts_late_counts_the_restarts() -> None:
    world = World(chat_1=BAD_FLAG)
    world.see(crash(5, code=2))
    await world.examine()
    assert world.is_stalled()


async def test_another_reason_counts_anew() -> None:
    world = World(chat_1=BUSY.format(1))
    world.see(crash(1))
    await world.examine()
    world.cluster.logs["chat-1"] = BAD_FLAG
    world.see(crash(2))
    await world.examine()
    assert (world.trouble.reason, world.trouble.stalled) == ("InvalidArguments", False)


async def test_what_heals_by_waiting_is_never_called_stalled() -> None:
    world = World(chat_1=BUSY.format(1))
    for number in range(1, 5):
        world.see(crash(number))
        await world.examine()
        assert (world.trouble.reason, world.trouble.stalled) == ("GPUBusy", False)


async def test_numbers_that_change_from_start_to_start_change_no_message() -> None:
    world = World(chat_1=BUSY.format("1.5"))
    world.see(crash(1))
    await world.examine()
    first = world.trouble
    world.cluster.logs["chat-1"] = BUSY.format("1.6")
    world.see(crash(2))
    await world.examine()
    assert world.trouble == first


async def test_an_image_that_can_never_be_is_stalled_at_once() -> None:
    world = World()
    world.see(pod(container("waiting", reason="InvalidImageName")))
    assert await world.examine() == []
    assert world.is_stalled()


@pytest.mark.parametrize("error", [Blocked("Forbidden", "pods/log"), Gone("chat-1"), Transient("500: no kubelet")])
async def test_a_log_that_cannot_be_read_is_done_without(error: OperatorError) -> None:
    world = World()
    world.cluster.error = error
    world.see(crash(1, message=BAD_FLAG))
    assert await world.examine() == ["log chat-1"]
    assert world.trouble.reason == "InvalidArguments", "the last words stand in for it"
    assert await world.examine() == [], "it is not asked for again"
    assert world.wait is None


async def test_kubelets_out_of_reach_are_left_alone_for_a_while() -> None:
    world = World(chat_1=BAD_FLAG, chat_2=BAD_FLAG)
    world.cluster.error, world.cluster.takes = Transient("timeout"), 5.0
    world.see(crash(1))
    assert await world.examine() == ["log chat-1"]
    world.cluster.error = None
    world.see(crash(2))
    assert await world.examine() == [], "nobody waits for a second one"
    assert world.trouble.reason == "StartupFailed"
    assert world.wait is not None
    assert 0 < world.wait <= 30
    world.cluster.now += world.wait
    assert await world.examine() == ["log chat-1"]
    assert world.trouble.reason == "InvalidArguments"


async def test_events_tell_who_ended_a_container() -> None:
    world = World(chat_1="Shutting down")
    killing = {"type": "Normal", "reason": "Killing", "message": "Container vllm failed liveness probe"}
    world.cluster.events = [killing]
    world.see(crash(1, code=137))
    assert await world.examine() == ["log chat-1", "events uid-chat-1"]
    assert world.trouble.reason == "LivenessFailed"
    assert await world.examine() == []


async def test_a_crash_with_a_clear_log_needs_no_events() -> None:
    world = World(chat_1="EngineDeadError: EngineCore encountered an issue.")
    world.see(crash(1, code=0, reason="Completed"))
    assert await world.examine() == ["log chat-1"]
    assert (world.trouble.reason, world.trouble.stalled) == ("EngineCrashed", False)


async def test_volumes_that_do_not_come_are_asked_for_after_a_while() -> None:
    world = World()
    world.cluster.events = [
        {"type": "Warning", "reason": "FailedMount", "message": 'MountVolume.SetUp failed : configmap "env" not found'}
    ]
    world.see(pod(container("waiting", reason="ContainerCreating")))
    assert await world.examine() == []
    assert world.wait == PATIENCE_SECONDS
    world.cluster.now += PATIENCE_SECONDS
    assert await world.examine() == ["events uid-chat-1"]
    assert world.trouble.reason == "FailedMount"
    assert "configmap env" in world.trouble.message
    assert world.wait == PATIENCE_SECONDS, "again when it is twice as old"
    assert await world.examine() == []
    world.cluster.now += PATIENCE_SECONDS
    assert await world.examine() == ["events uid-chat-1"]
    assert world.wait == 2 * PATIENCE_SECONDS
    world.see(pod(container("running")))
    assert world.pods.trouble(KEY, "server") is None


async def test_an_api_server_that_takes_long_for_events_is_left_to_its_work() -> None:
    world = World()
    world.cluster.takes = 2.0
    world.see(*(pod(container("waiting", reason="ContainerCreating"), name=f"chat-{number}") for number in (1, 2)))
    world.cluster.now += PATIENCE_SECONDS
    assert await world.examine() == ["events uid-chat-1"]
    world.cluster.now += 19
    assert await world.examine() == []
    world.cluster.now += 1
    assert await world.examine() == ["events uid-chat-2"]


async def test_an_image_that_takes_long_to_pull_is_no_trouble() -> None:
    world = World()
    world.see(pod(container("waiting", reason="ContainerCreating")))
    world.cluster.now += 300
    assert await world.examine() == ["events uid-chat-1"]
    assert world.pods.trouble(KEY, "server") is None
    assert world.wait == 300


async def test_a_pod_that_changed_while_its_log_was_read() -> None:
    world = World(chat_1=BAD_FLAG)
    world.see(crash(1))

    async def meanwhile(*_: object, **__: object) -> str:
        world.see(pod(RUNNING, phase="Running"))
        return BAD_FLAG

    world.cluster.pod_log = meanwhile  # type: ignore[method-assign]
    await world.examine()
    assert world.pods.trouble(KEY, "server") is None


def test_the_earlier_of_two_delays() -> None:
    assert earlier(None, None) is None
    assert earlier(3.0, None) == earlier(None, 3.0) == earlier(3.0, 5.0) == 3.0
