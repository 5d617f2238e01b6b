"""`vllm-operator fetch --inspect`, volumes that are full or read-only, and the command beside the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fetching import (
    CONFIG,
    Client,
    write,
)
from hub import Hub
from operator_process import ROOT, python_environment
from vllm_operator.report import Inspected, Reason


@pytest.mark.parametrize("argv", [["size", "70B"], ["--help"], ["fetch", "--help"]])
def test_what_fetches_nothing_does_not_wait_for_the_library(argv: list[str], client: Client) -> None:
    code = (
        "import sys; from vllm_operator.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sorted({'huggingface_hub', 'httpx2', 'filelock'} & sys.modules.keys()), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", code, *argv]
    ended = subprocess.run(argv, env=client.environment, capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == ""


def test_it_answers_as_a_plugin_of_kubectl(client: Client, tiny: Path, tmp_path: Path) -> None:
    client.hub.add("org/tiny", tiny)
    plugin = tmp_path / "kubectl-vllm"
    plugin.write_text("import sys; from vllm_operator.__main__ import main; sys.exit(main())", encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, str(plugin), "fetch", "org/tiny", "--revision"],
        env=client.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr.split(":")[0]) == (2, "kubectl vllm")


class TestInspect:
    def test_a_repository(self, client: Client, sharded: Path) -> None:
        commit = client.hub.add("org/sharded", sharded).sha
        done = client.run("hf://org/sharded", "--inspect", HF_HOME="/proc/nothing/here")
        weights = sum(path.stat().st_size for path in sharded.glob("model-*"))
        assert (done.code, done.report) == (0, Inspected(commit, CONFIG, weights))
        asked = {one.path.rpartition("/")[2] for one in client.hub.requests("/resolve/")}
        assert asked == {"config.json", "model.safetensors.index.json"}
        assert not client.hub.requests("/content/")

    def test_a_folder_says_the_same(self, client: Client, sharded: Path) -> None:
        client.hub.add("org/sharded", sharded)
        there, here = client.run("org/sharded", "--inspect").report, client.run(str(sharded), "--inspect").report
        assert isinstance(there, Inspected)
        assert here == Inspected("", there.config, there.weight_bytes)

    @pytest.mark.parametrize(
        ("files", "reason"),
        [
            (None, Reason.MODEL),
            ({"model.safetensors": b"x"}, Reason.CONFIG_MISSING),
            ({"config.json": CONFIG}, Reason.WEIGHTS),
            ({"config.json": b"{", "model.safetensors": b"x"}, Reason.CONFIG_UNREADABLE),
        ],
    )
    def test_a_folder_that_is_no_model(
        self, client: Client, tmp_path: Path, files: dict[str, Any] | None, reason: Reason
    ) -> None:
        folder = tmp_path / "model"
        if files is not None:
            write(folder, files)
        done = client.run(str(folder), "--inspect")
        assert (done.code, done.failure.reason) == (3, reason)

    def test_what_modelopt_writes_beside_the_config(self, client: Client, tiny: Path) -> None:
        beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
        client.hub.add("org/tiny", write(tiny, {"hf_quant_config.json": beside}))
        report = client.run("org/tiny", "--inspect").report
        assert isinstance(report, Inspected)
        assert report.config["quantization_config"] == {
            "quantization": {"quant_algo": "FP8"},
            "quant_method": "modelopt",
        }


def _in_namespace(script: str) -> list[str]:
    """What runs a command after a script that mounts, out of sight of everybody else."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    confined = ["unshare", *user, "--mount", "--propagation", "private"]
    return [*confined, "bash", "-euc", f'{script}; exec "$@"', "bash"]


def _mounts() -> bool:
    argv = [*_in_namespace("mount -t tmpfs tmpfs /mnt"), "true"]
    return bool(shutil.which("unshare")) and subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _mounts(), reason="this user may not mount")
class TestVolumes:
    def test_too_little_room_is_said_before_the_first_byte(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/tiny", tiny)
        client.home.mkdir()
        done = client.run("org/tiny", inside=_in_namespace(f"mount -t tmpfs -o size=66m tmpfs {client.home}"))
        assert (done.code, done.failure.reason) == (3, Reason.SPACE)
        assert "needs 0.1 GiB more" in done.failure.message
        assert not client.hub.requests("/content/")

    def test_a_cache_that_cannot_be_written(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/tiny", tiny)
        client.home.mkdir()
        done = client.run("org/tiny", inside=_in_namespace(f"mount -t tmpfs -o ro tmpfs {client.home}"))
        assert (done.code, done.failure.reason) == (3, Reason.CACHE)
        assert "Read-only file system" in done.failure.message

    @pytest.fixture
    def read_only(self, client: Client, sharded: Path) -> list[str]:
        """What runs a command where the cache, which holds a model, is mounted read-only."""
        client.hub.add("org/sharded", sharded)
        assert client.run("org/sharded").code == 0
        return _in_namespace(f"mount --bind {client.home} {client.home}; mount -o remount,bind,ro {client.home}")

    def test_readers_find_it_offline_on_a_read_only_volume(self, client: Client, read_only: list[str]) -> None:
        (commit,) = client.hub.repositories["org/sharded"].commits
        code = (
            "import sys; from huggingface_hub import hf_hub_download, snapshot_download\n"
            "for revision in (None, 'main', sys.argv[1]):\n"
            "    print(snapshot_download('org/sharded', revision=revision, allow_patterns=['*.safetensors']))\n"
            "    print(hf_hub_download('org/sharded', 'config.json', revision=revision))\n"
        )
        argv = [*read_only, sys.executable, "-c", code, commit]
        offline = client.environment | {"HF_HUB_OFFLINE": "1"}
        ended = subprocess.run(argv, env=offline, capture_output=True, text=True, check=False)
        snapshot = client.snapshot("org/sharded", commit)
        assert ended.stdout.split() == [str(snapshot), str(snapshot / "config.json")] * 3, ended.stderr

    def test_a_second_run_needs_no_writing(self, client: Client, read_only: list[str]) -> None:
        assert client.run("org/sharded", inside=read_only).code == 0


def test_the_hub_runs_by_hand(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "models" / "org" / "tiny")
    argv = [sys.executable, "-m", "hub", str(tmp_path / "models")]
    environment = {"PATH": os.defpath, **python_environment(), "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as served:
        try:
            assert served.stdout
            endpoint, name = served.stdout.readline().split()
            with Hub() as unused:
                client = Client(unused, tmp_path)
                assert client.run(name, HF_ENDPOINT=endpoint.removeprefix("HF_ENDPOINT=")).code == 0
        finally:
            served.terminate()
    assert served.returncode == 0
