"""Starting, interrupting, killing and ending local clusters: nothing may be left, nobody else may be hit."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

from localcluster import components, paths, state
from localcluster.cluster import Cluster
from localcluster.errors import ComponentError
from localcluster.processes import Process
from localcluster.requirements import NodeUnavailableError
from localcluster.state import Layout, State
from localcluster.wait import wait_for


def python(*arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment())


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(paths.PACKAGE.parent)}


def localcluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "localcluster", *arguments)


@pytest.fixture
def own_name() -> str:
    return f"own-{os.getpid()}"


@pytest.fixture
def own_cluster(own_name: str, local_cluster: Cluster) -> Iterator[str]:
    assert local_cluster.layout.name != own_name
    yield own_name
    assert localcluster("down", "--name", own_name).returncode == 0


def recorded(name: str) -> State:
    record = state.load(state.layout_of(name))
    assert record is not None
    return record


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_up_and_down_leave_nothing(own_cluster: str, record_property: Callable[[str, object], None]) -> None:
    assert localcluster("status", "--name", own_cluster).returncode == 1
    up = localcluster("up", "--name", own_cluster)
    assert up.returncode == 0, up.stderr
    record = recorded(own_cluster)
    record_property("control_plane_ready_seconds", record.ready_seconds["control plane"])
    assert f"control plane ready after {record.ready_seconds['control plane']:.1f} s" in up.stdout
    assert len(record.processes) == 5
    assert all(process.alive for process in record.processes.values())
    status = localcluster("status", "--name", own_cluster)
    assert (status.returncode, status.stdout.count(" ready ")) == (0, 5), status.stdout
    again = localcluster("up", "--name", own_cluster)
    assert (again.returncode, "already up" in again.stdout) == (0, True)
    assert recorded(own_cluster) == record
    assert localcluster("down", "--name", own_cluster).returncode == 0
    assert not any(process.alive for process in record.processes.values())
    assert not any(listening(port) for port in record.ports.values())
    assert not state.layout_of(own_cluster).root.exists()


def test_interrupted_start_leaves_nothing(own_cluster: str) -> None:
    layout = state.layout_of(own_cluster)
    command = [sys.executable, "-m", "localcluster", "up", "--name", own_cluster]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as starting:

        def processes() -> dict[str, Process]:
            record = state.load(layout)
            return record.processes if record else {}

        try:
            begun = wait_for(processes, interval=0.01, message="the first component is recorded")
            starting.send_signal(signal.SIGINT)
            _, errors = starting.communicate(timeout=30)
        finally:
            starting.kill()
    assert starting.returncode == 130, errors
    assert "Traceback" not in errors
    assert not any(process.alive for process in begun.values())
    assert not layout.root.exists()


def test_killed_owner_takes_its_cluster_along(own_cluster: str) -> None:
    owner_code = f"""
        import time
        from localcluster.cluster import Cluster
        Cluster.start({own_cluster!r}, bound=True)
        print("started", flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(owner_code)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline().strip() == "started"
            record = recorded(own_cluster)
            assert all(process.alive for process in record.processes.values())
        finally:
            owner.kill()
    wait_for(lambda: not any(process.alive for process in record.processes.values()), message="all components gone")
    assert record.abandoned
    state.sweep()
    assert not state.layout_of(own_cluster).root.exists()


def test_failed_component_shows_its_last_words_and_leaves_nothing(
    own_name: str, local_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local_cluster.layout.name != own_name
    monkeypatch.setattr(components, "SERVICE_CIDR", "not-a-network")
    with pytest.raises(ComponentError, match=r"(?s)^kube-apiserver ended; its last log lines:.*valid cidr"):
        Cluster.start(own_name, bound=True)
    assert not state.layout_of(own_name).root.exists()


def test_port_that_somebody_takes_meanwhile_is_chosen_anew(
    own_name: str, local_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local_cluster.layout.name != own_name
    claimed: list[State] = []
    claim = state.claim

    with socket.create_server(("127.0.0.1", 0)) as squatter:

        def claim_and_lose(layout: Layout, owner: Process, *, bound_to_owner: bool, real_node: bool) -> State:
            record = claim(layout, owner, bound_to_owner=bound_to_owner, real_node=real_node)
            if not claimed:
                record.ports["kube-scheduler"] = squatter.getsockname()[1]
            claimed.append(record)
            return record

        monkeypatch.setattr(state, "claim", claim_and_lose)
        cluster = Cluster.start(own_name, bound=True)
    assert len(claimed) == 2
    assert not any(process.alive for process in claimed[0].processes.values())
    cluster.down()


@pytest.mark.real_node
def test_addresses_that_another_cluster_takes_meanwhile_are_chosen_anew(
    own_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[State] = []
    claim = state.claim

    def claim_and_lose(layout: Layout, owner: Process, *, bound_to_owner: bool, real_node: bool) -> State:
        record = claim(layout, owner, bound_to_owner=bound_to_owner, real_node=real_node)
        claimed.append(record)
        if len(claimed) == 1:
            assert record.network is not None
            subprocess.run(["ip", "link", "add", record.network.link, "type", "veth"], check=True)
        return record

    monkeypatch.setattr(state, "claim", claim_and_lose)
    try:
        Cluster.start(own_name, bound=True, real_node=True).down()
        assert len({record.slot for record in claimed}) == 2
    except NodeUnavailableError as reason:
        pytest.skip(str(reason))
    finally:
        if claimed and claimed[0].network:
            subprocess.run(["ip", "link", "delete", claimed[0].network.link], check=True)


def test_recorded_pid_of_another_process_is_not_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        Process(pid=stranger.pid, started=1).kill()
        assert stranger.poll() is None
        stranger.kill()
