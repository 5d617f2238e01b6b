"""The parts of the harness that need no cluster: keys and locks of builds, names, waiting, the audit log's lines."""

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from localcluster import audit, build, kwok, nodes, state, tools
from localcluster.errors import LocalClusterError
from localcluster.processes import Process
from localcluster.tools import TOOLS, Tool
from localcluster.wait import wait_for

# Answers `go env` as a new Go does, and "builds" by writing its arguments; every build leaves a line in $BUILDS.
FAKE_GO = """#!/bin/sh
if [ "$1" = env ]; then printf '%s\\nlocal\\n' "${FAKE_VERSION:-go1.99.0}"; exit; fi
echo "$@" >> "$BUILDS"
if [ -n "$FAKE_FAILURE" ]; then echo "$FAKE_FAILURE"; exit 1; fi
sleep "${FAKE_SECONDS:-0}"
while [ $# -gt 1 ]; do if [ "$1" = -o ]; then echo built > "$2"; exit; fi; shift; done
"""


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own and a fake go; the file lists what was built."""
    programs = tmp_path / "programs"
    programs.mkdir()
    go = programs / "go"
    go.write_text(FAKE_GO)
    go.chmod(go.stat().st_mode | stat.S_IXUSR)
    log = tmp_path / "builds"
    log.touch()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("BUILDS", str(log))
    monkeypatch.setenv("VLLM_OPERATOR_CACHE", str(tmp_path / "cache"))
    return log


def built(log: Path) -> list[str]:
    return [line.split()[-1] for line in log.read_text().splitlines()]


def test_program_is_built_once(builds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build.ensure(["etcd"])["etcd"]
    assert path.read_text() == "built\n"
    assert path.name.startswith(f"etcd-{TOOLS['etcd'].version}-")
    assert build.ensure(["etcd"]) == {"etcd": path}
    assert built(builds) == ["go.etcd.io/etcd/server/v3"]
    said = capsys.readouterr().err
    assert f"[1/1] etcd {TOOLS['etcd'].version}: building" in said
    assert "built in 0 s" in said
    assert [entry.name for entry in path.parent.iterdir() if not entry.name.endswith(".lock")] == [path.name]


def test_long_build_says_that_it_lives(
    builds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    build.ensure(["etcd"])
    assert "etcd v3.7.3: still building" in capsys.readouterr().err
    assert len(built(builds)) == 1


def test_failed_build_shows_go_and_leaves_nothing(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAILURE", "main.go:1: no such package")
    with pytest.raises(LocalClusterError, match=r"go build ended with 1\nmain.go:1: no such package"):
        build.ensure(["kwok"])
    assert not TOOLS["kwok"].path.exists()
    monkeypatch.delenv("FAKE_FAILURE")
    assert build.ensure(["kwok"])["kwok"].exists()
    assert len(built(builds)) == 2


def test_two_processes_build_a_program_once(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=build.ensure, args=(["etcd"],)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(built(builds)) == 1


@pytest.mark.usefixtures("builds")
def test_old_go_is_refused_with_the_version_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VERSION", "go1.20.3")
    with pytest.raises(LocalClusterError, match=r"needs Go 1\.26 or newer, and .*/go is go1\.20\.3; install it from"):
        build.ensure(["etcd"])


@pytest.mark.usefixtures("builds")
def test_missing_go_is_said_with_the_version_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalClusterError, match=r"needs Go 1\.26 or newer, and there is no `go` on PATH"):
        build.ensure(["etcd"])


def test_unknown_program_is_refused() -> None:
    with pytest.raises(LocalClusterError, match="no program 'kubeadm' in the tool table; known: etcd, "):
        build.ensure(["kubeadm"])


def test_key_follows_dependencies_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "GO_MODULES", tmp_path)
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "go.mod").write_text("module m\n\ngo 1.26.0\n\nrequire example.test/p v1.2.3\n")
    (folder / "go.sum").write_text("a\n")
    tool = Tool(name="p", package="example.test/p", module="example.test/p", go_module="m", symbols=("v={version}",))
    keys = [tool.key, tool.key]
    (folder / "go.sum").write_text("b\n")
    keys.append(tool.key)
    (folder / "go.mod").write_text("module m\n\ngo 1.26.0\n\nrequire example.test/p v1.2.4\n")
    keys.append(tool.key)
    monkeypatch.setattr(tools, "BUILD_FLAGS", ("-race",))
    keys.append(tool.key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    assert tool.version == "v1.2.4"
    assert tool.ldflags == "-s -w -X v=v1.2.4"


def test_every_program_has_a_pinned_version() -> None:
    assert {name: tool.version.count(".") for name, tool in TOOLS.items()} == dict.fromkeys(TOOLS, 2)


@pytest.mark.parametrize("name", ["", "Upper", "-edge", "edge-", "a/b", "..", "x" * 41])
def test_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(LocalClusterError, match="use 1 to 40 lower-case letters"):
        state.layout_of(name)


def test_clusters_get_ports_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_OPERATOR_CACHE", str(tmp_path))
    monkeypatch.setattr(state, "_PORT_RANGE", range(21000, 21000 + 3 * len(state.PORT_NAMES)))
    owner = Process(pid=1, started=1)
    claimed = [state.claim(state.layout_of(f"c{n}"), owner, bound_to_owner=True) for n in range(2)]
    first, second = (set(record.ports.values()) for record in claimed)
    assert len(first) == len(second) == len(state.PORT_NAMES)
    assert not first & second
    assert state.load(state.layout_of("c1")) == claimed[1]


def test_wait_reports_the_last_observed_value() -> None:
    values = iter(range(1000))
    assert wait_for(lambda: next(values) >= 3, timeout=5, interval=0.001)
    with pytest.raises(TimeoutError, match=r"not within 0.01 s: the moon; last observed: 0"):
        wait_for(lambda: 0, timeout=0.01, message="the moon", interval=0.001)

    def refuse() -> bool:
        raise AssertionError("2 is not 3")

    with pytest.raises(TimeoutError, match="last observed: 'AssertionError: 2 is not 3'"):
        wait_for(refuse, timeout=0.01, interval=0.001)


def line(verb: str, uri: str) -> bytes:
    event = {
        "user": {"username": "admin"},
        "verb": verb,
        "requestURI": uri,
        "stage": "ResponseComplete",
        "requestReceivedTimestamp": "2030-01-01T00:00:00.000000Z",
        "responseStatus": {"code": 200},
    }
    return json.dumps(event).encode() + b"\n"


def test_audit_log_is_read_from_a_mark_to_the_last_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    first = line("get", "/api/v1/pods")
    unfinished = line("get", "/never")[:-10]
    log.write_bytes(first + line("patch", "/apis/x?dryRun=All") + line("patch", "/apis/x?fieldManager=y") + unfinished)
    events = list(audit.read(log, since=len(first)))
    assert [(event.uri, event.is_write) for event in events] == [
        ("/apis/x?dryRun=All", False),
        ("/apis/x?fieldManager=y", True),
    ]


def test_a_mark_never_lies_within_a_line(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_bytes(b"")
    assert audit.mark(log) == 0
    whole, unfinished = line("get", "/first"), line("get", "/second")
    log.write_bytes(whole + unfinished[:-10])
    since = audit.mark(log)
    assert since == len(whole)
    log.write_bytes(whole + unfinished)
    assert [event.uri for event in audit.read(log, since)] == ["/second"]
    assert audit.mark(log) == len(whole + unfinished)


def test_half_a_line_of_a_killed_api_server_hides_nothing(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    after = json.dumps({"kind": "Event", **json.loads(line("get", "/after"))}, separators=(",", ":")).encode() + b"\n"
    log.write_bytes(b'{"kind":"Event","apiVers' + after)
    assert [event.uri for event in audit.read(log)] == ["/after"]


def test_fleet_has_the_promised_gpus() -> None:
    labels = [node["metadata"]["labels"] for node in nodes.fleet()]
    gpus = {
        item["nvidia.com/gpu.product"]: item["nvidia.com/gpu.count"]
        for item in labels
        if "nvidia.com/gpu.product" in item
    }
    assert gpus == {
        "Tesla-T4": "4",
        "NVIDIA-L4": "4",
        "NVIDIA-GeForce-RTX-4090": "8",
        "NVIDIA-A100-SXM4-40GB": "8",
        "NVIDIA-A100-SXM4-80GB": "8",
        "NVIDIA-H100-80GB-HBM3": "8",
        "NVIDIA-H200": "8",
    }
    capacities = [node["status"]["allocatable"] for node in nodes.fleet()]
    assert sum("amd.com/gpu" in capacity for capacity in capacities) == 1
    assert sum(not any(key.endswith("/gpu") for key in capacity) for capacity in capacities) == 2


def test_scale_nodes_are_enough() -> None:
    made = nodes.scale_nodes(201)
    assert sum(int(node["status"]["capacity"]["nvidia.com/gpu"]) for node in made) == 208
    assert len({node["metadata"]["name"] for node in made}) == len(made)


def test_stages_have_names_of_their_own() -> None:
    names = [stage["metadata"]["name"] for stage in kwok.stages()]
    assert len(names) == len(set(names)) == 10
