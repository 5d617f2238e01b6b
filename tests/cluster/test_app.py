"""The operator as a process: what reaches the reconciler, health, signals, and the exit code of every end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import operator_process
from eventloop import sockets_closed
from localcluster import probe
from localcluster.access import ClusterAccess
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from objects import resource
from operator_process import OperatorProcess, free_port
from vllm_operator import app
from vllm_operator.app import process
from vllm_operator.config import OperatorConfig
from vllm_operator.listener import Listener, Notes
from vllm_operator.naming import Key
from vllm_operator.scope import Scope
from vllm_operator.workqueue import WorkQueue


@dataclass(frozen=True)
class Result:
    writes: int = 0
    requeue_after: float | None = None
    phase: str = ""
    reason: str = ""


class Ear(Listener):
    """The real listener, which says when the watch has brought something."""

    def __init__(self, queue: WorkQueue[Key], heard: asyncio.Event) -> None:
        super().__init__(Notes(), queue)
        self._heard = heard

    def node_seen(self, event: str | None, body: Mapping[str, Any]) -> None:
        super().node_seen(event, body)
        self._heard.set()


class Toy:
    """A reconciler that writes nothing; a pass ends when it is let go, at once unless a test holds it."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[Key] = asyncio.Queue()
        self.finished: list[Key] = []
        self.resyncs = 0
        self.heard = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def start(self, scope: Scope) -> None:
        assert scope.nodes

    def listener(self, queue: WorkQueue[Key]) -> Listener:
        return Ear(queue, self.heard)

    async def close(self) -> None:
        pass

    async def resync(self, queue: WorkQueue[Key]) -> None:
        self.resyncs += 1
        queue.add(Key("resync", str(self.resyncs)))

    async def reconcile(self, key: Key) -> Result:
        self.started.put_nowait(key)
        await self.go.wait()
        self.finished.append(key)
        return Result()

    async def starts(self, key: Key) -> None:
        """Wait until a pass over a resource starts."""
        async with asyncio.timeout(20):
            while await self.started.get() != key:
                pass


class Running:
    """The real process around a toy."""

    def __init__(self, kubeconfig: Path, namespace: str, **fields: Any) -> None:  # noqa: ANN401 - of the configuration
        self.toy = Toy()
        self.port = free_port()
        config = OperatorConfig(
            kubeconfig=str(kubeconfig), namespace=(namespace,), **{"health_port": self.port, "workers": 2, **fields}
        )
        self.task = asyncio.create_task(app.run(config, lambda *_: self.toy))

    async def status(self, path: str) -> int | None:
        return await asyncio.to_thread(probe.status_of, f"http://127.0.0.1:{self.port}{path}")

    async def ask_to_end(self) -> None:
        """Send SIGTERM, once kopf is past its discovery: it leaves connections behind when that is cut off."""
        async with asyncio.timeout(20):
            await self.toy.heard.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    async def terminate(self) -> int:
        await self.ask_to_end()
        return await self.end()

    async def end(self) -> int:
        async with asyncio.timeout(15):
            code = await self.task
        await sockets_closed()
        return code


async def test_resources_old_and_new_reach_the_reconciler(installed: Path, namespace: str, kubectl: Kubectl) -> None:
    kubectl.apply(resource(namespace))
    running = Running(installed, namespace)
    await running.toy.starts(Key(namespace, "one"))
    assert (await running.status("/healthz"), await running.status("/readyz")) == (200, 200)
    assert await running.status("/elsewhere") == 404
    second = resource(namespace)
    second["metadata"]["name"] = "two"
    kubectl.apply(second)
    await running.toy.starts(Key(namespace, "two"))
    kubectl("delete", "vd", "one")
    await running.toy.starts(Key(namespace, "one"))
    assert await running.terminate() == 0


async def test_a_signal_lets_running_passes_finish(installed: Path, namespace: str, kubectl: Kubectl) -> None:
    running = Running(installed, namespace)
    running.toy.go.clear()
    kubectl.apply(resource(namespace))
    await running.toy.starts(Key(namespace, "one"))
    await running.ask_to_end()
    async with asyncio.timeout(15):
        while await running.status("/readyz") == 200:
            pass
    assert running.toy.finished == []
    running.toy.go.set()
    assert await running.end() == 0
    assert running.toy.finished == [Key(namespace, "one")]


async def test_a_pass_that_does_not_finish_is_cut_short(
    installed: Path, namespace: str, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "DRAIN_SECONDS", 0.2)
    running = Running(installed, namespace)
    running.toy.go.clear()
    kubectl.apply(resource(namespace))
    await running.toy.starts(Key(namespace, "one"))
    assert await running.terminate() == 0
    assert running.toy.finished == []


async def test_everything_is_looked_at_from_time_to_time(installed: Path, namespace: str) -> None:
    running = Running(installed, namespace, resync_seconds=0.2)
    await running.toy.starts(Key("resync", "1"))
    await running.toy.starts(Key("resync", "2"))
    assert await running.terminate() == 0


async def test_a_resync_that_fails_is_tried_again(
    installed: Path, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "_RESYNC_RETRY_SECONDS", 0.1)
    running = Running(installed, namespace, resync_seconds=0.1)
    resync: Callable[..., Any] = running.toy.resync
    failures = iter([ZeroDivisionError("by nought")])

    async def once_broken(queue: WorkQueue[Key]) -> None:
        if failure := next(failures, None):
            raise failure
        await resync(queue)

    monkeypatch.setattr(running.toy, "resync", once_broken)
    await running.toy.starts(Key("resync", "1"))
    assert await running.terminate() == 0
    assert "by nought" in caplog.text


@pytest.fixture
def own_operator(installed: Path, namespace: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator for the namespace of this test only."""
    settings = {"namespace": namespace, "log_level": "debug", "log_format": "json"}
    started = OperatorProcess(installed, tmp_path / "log", settings)
    yield started
    if started.alive:
        started.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_cleanly_and_soon(own_operator: OperatorProcess, number: signal.Signals) -> None:
    own_operator.start()
    own_operator.wait_ready()
    own_operator.process.send_signal(number)
    assert own_operator.process.wait(timeout=30) == 0
    lines = [json.loads(line) for line in own_operator.log.read_text().splitlines()]
    messages = [line["message"] for line in lines]
    assert messages[0].startswith("configuration: ")
    assert "stopped" in messages
    # kopf would arm a SIGKILL for signals that it takes itself.
    assert [text for text in messages if text.startswith("Stop-flag is ")]
    assert not [text for text in messages if text.startswith("Signal ")]
    ours = [line for line in lines if line["logger"].startswith("vllm_operator")]
    assert not [line for line in ours if line["level"] in {"warning", "error"}]


def test_the_process_ends_cleanly_when_it_has_hardly_begun(own_operator: OperatorProcess) -> None:
    own_operator.start()
    wait_for(lambda: '"watching namespace ' in own_operator.tail(), message="kopf begins")
    own_operator.process.send_signal(signal.SIGTERM)
    assert own_operator.process.wait(timeout=30) == 0


def test_lines_about_a_resource_carry_its_key(own_operator: OperatorProcess, namespace: str, kubectl: Kubectl) -> None:
    own_operator.start()
    own_operator.wait_ready()
    kubectl.apply(resource(namespace))
    wait_for(lambda: (kubectl.get("vd", "one") or {}).get("status"), message="a status")
    assert own_operator.stop() == 0
    lines = [json.loads(line) for line in own_operator.log.read_text().splitlines()]
    about = [line for line in lines if line.get("result") == "written"]
    assert {line["resource"] for line in about} == {f"{namespace}/one"}
    assert all(line["writes"] > 0 for line in about)
    of_kopf = [line for line in lines if line["logger"] == "kopf.objects"]
    assert f"{namespace}/one" in {line.get("resource") for line in of_kopf}
    assert [line for line in of_kopf if not {"resource", "object"} & line.keys()] == []


def test_a_watch_that_cannot_be_healed_ends_the_process(
    cluster: ClusterAccess, installed: Path, namespace: str, kubectl: Kubectl
) -> None:
    assert installed
    kubectl("create", "serviceaccount", "blind")
    kubectl("create", "clusterrole", namespace, "--verb=list,watch", "--resource=nodes,vllmdeployments")
    kubectl(
        "create", "clusterrolebinding", namespace, f"--clusterrole={namespace}", f"--serviceaccount={namespace}:blind"
    )
    kubeconfig = cluster.kubeconfig_for("blind", namespace)
    wait_for(
        lambda: kubectl.with_kubeconfig(kubeconfig)("get", "nodes", check=False).returncode == 0, message="the role"
    )
    impatient = (
        "import sys; from vllm_operator import __main__, pacing\n"
        "pacing._ERROR_DELAYS, pacing._PATIENCE_SECONDS = (0.1,), 0.2\n"
        "sys.exit(__main__.main(['run']))"
    )
    settings = operator_process.environment(kubeconfig, free_port(), {"namespace": namespace})
    done = subprocess.run(
        [sys.executable, "-c", impatient], env=settings, capture_output=True, text=True, timeout=60, check=False
    )
    kubectl("delete", "clusterrole,clusterrolebinding", namespace)
    assert done.returncode == 1
    assert "is forbidden" in done.stderr
    assert "the watch failed" in done.stderr


def test_a_usage_error_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    settings = operator_process.environment(tmp_path / "nowhere", free_port())
    done = subprocess.run(
        operator_process.COMMAND, env=settings, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    *log, sentence = done.stderr.splitlines()
    assert "configuration: " in log[0]
    assert sentence.startswith("python -m vllm_operator: Cannot connect with the kubeconfig ")
    assert "Traceback" not in done.stderr
