"""A running operator, looked at from beside: /metrics before it works, its inside by signal, and probes that notice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import unwell
from fakeapi import kubeconfig
from localcluster.wait import wait_for
from operator_process import OperatorProcess, free_port, python_environment
from scraping import get, scrape

TESTS = Path(__file__).resolve().parents[1]


def lines(log: Path) -> list[dict[str, Any]]:
    """Every line of a log; a half-written last one is left."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def said(log: Path, message: str) -> list[dict[str, Any]]:
    return [line for line in lines(log) if line["message"] == message]


def answers(port: int) -> bool:
    """Whether a process serves its probes yet."""
    try:
        return get(port, "/healthz")[0] > 0
    except OSError:
        return False


# --- an operator that cannot work yet


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """A candidate whose API server is away for a minute; its settings come from a file and the environment."""
    tmp_path = tmp_path_factory.mktemp("waiting")
    file = tmp_path / "config.yaml"
    file.write_text("workers: 3\nburst: 5\n")
    settings = {"config": str(file), "burst": "6", "log_format": "json", "leader_elect": "true"}
    settings |= {"lease_namespace": "elsewhere", "worker": "4"}
    started = OperatorProcess(Path(kubeconfig(tmp_path, free_port())), tmp_path / "log", settings)
    started.start()
    wait_for(lambda: answers(started.port), message="probes are answered")
    yield started
    if started.alive:
        started.kill()


def test_metrics_are_there_before_there_is_work(waiting: OperatorProcess) -> None:
    asked = {"verb": "get", "resource": "discovery", "code": "error"}
    wait_for(lambda: scrape(waiting.port).total("api_requests_total", **asked) >= 2, message="requests are counted")
    page = scrape(waiting.port)
    assert page.total("is_leader") == 0
    assert page.total("build_info") == 1
    assert page.total("workqueue_depth") == 0
    assert page.total("event_loop_delay_seconds_count") > 0
    assert page.total("process_resident_memory_bytes") > 2**20


def test_the_configuration_in_force_is_one_line(waiting: OperatorProcess) -> None:
    (line,) = [line for line in lines(waiting.log) if "configuration" in line]
    said_of = line["configuration"]
    assert said_of["workers"] == {"value": 3, "source": "file"}
    assert said_of["burst"] == {"value": 6, "source": "environment"}
    assert said_of["engine_image"]["source"] == "default"
    assert "workers=3 (file)" in line["message"]
    assert lines(waiting.log)[0] == line


def test_a_variable_that_is_no_setting_is_named_and_stops_nothing(waiting: OperatorProcess) -> None:
    (line,) = [line for line in lines(waiting.log) if "is no setting" in line["message"]]
    assert line["message"] == "VLLM_OPERATOR_WORKER is no setting; did you mean VLLM_OPERATOR_WORKERS?"
    assert line["level"] == "warning"


def test_signals_tell_its_inside_and_leave_it_running(waiting: OperatorProcess) -> None:
    waiting.process.send_signal(signal.SIGUSR1)
    (queue,) = wait_for(lambda: said(waiting.log, "the work queue"), message="the queue in the log")
    assert (queue["waiting"], queue["running"], queue["resources"]) == (0, 0, 0)
    waiting.process.send_signal(signal.SIGUSR2)
    wait_for(lambda: "pulse" in {one["task"] for one in said(waiting.log, "a task")}, message="the tasks in the log")
    assert any("pulse.py:" in frame for one in said(waiting.log, "a task") for frame in one["stack"])
    assert waiting.alive


def test_it_can_be_ended_while_it_waits(waiting: OperatorProcess) -> None:
    assert waiting.stop() == 0


# --- an operator that is ill


@dataclass
class Patient:
    """A process that falls ill once it was seen well; see `unwell`."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]

    def health(self, timeout: float = 0.5) -> tuple[int, str]:
        """Status and reason of /healthz as a kubelet sees them; (0, "") when nothing answers in time."""
        try:
            return get(self.port, "/healthz", timeout)
        except OSError:
            return 0, ""


@pytest.fixture
def patient(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Patient]:
    port, log = free_port(), tmp_path / "log"
    environment = {"PATH": os.defpath, **python_environment()}
    environment["PYTHONPATH"] += f":{TESTS}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "unwell", str(port), request.param],
            env=environment,
            stdin=subprocess.PIPE,
            stderr=file,
        )
    found = Patient(port, log, process)
    try:
        wait_for(lambda: found.health() == (200, "ok"), message="it is well at first", interval=0.01)
        assert process.stdin
        process.stdin.close()  # now it falls ill
        yield found
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("patient", ["blocked"], indirect=True)
def test_a_blocked_loop_answers_no_probe_says_where_it_stands_and_is_held_against_it(patient: Patient) -> None:
    wait_for(lambda: patient.health()[0] == 0, message="nothing answers")
    patient.process.send_signal(signal.SIGUSR2)
    (main,) = wait_for(lambda: said(patient.log, "the main thread"), unwell.BLOCKED_SECONDS, "the stack, meanwhile")
    assert main["stack"][-1].startswith("_Patient.block (")
    wait_for(lambda: patient.health()[0] == 503, message="its lateness is held against it")
    assert patient.health()[1].startswith("the event loop stood still for ")
    assert scrape(patient.port).total("event_loop_lag_seconds") > unwell.LATE_SECONDS
    # On a busy machine the loop may be late once more by itself.
    wait_for(lambda: patient.health() == (200, "ok"), 10 * unwell.LATELY_SECONDS, message="it is forgiven")
    assert "stood still" in patient.log.read_text()


@pytest.mark.parametrize("patient", ["stuck"], indirect=True)
def test_a_pass_that_cannot_be_given_up_is_noticed_and_named(patient: Patient) -> None:
    wait_for(lambda: patient.health()[0] == 503, message="the stuck pass is noticed")
    assert patient.health()[1].startswith("a pass has been running for ")
    assert scrape(patient.port).total("workqueue_running") == 1
    patient.process.send_signal(signal.SIGUSR1)
    found = wait_for(lambda: {one["resource"]: one for one in said(patient.log, "a resource")}, message="resources")
    assert found["team/ill"]["running"] > 0.6
    assert "last" not in found["team/ill"]
    assert found["team/well"]["last"]["result"] == "unchanged"
    assert found["team/well"]["failures"] == 0
    patient.process.send_signal(signal.SIGUSR2)
    wait_for(lambda: said(patient.log, "a task"), message="tasks")
    assert any("_Patient.stick (" in frame for one in said(patient.log, "a task") for frame in one["stack"])
