"""`vllm-operator fetch` as a process, with the real client of the hub: what it brings, and after an interruption."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetching import (
    CONFIG,
    MEBI,
    NEEDED,
    SIZE,
    TOKEN,
    WEIGHTS,
    Client,
    held_in,
    matches,
    safetensors,
    write,
)
from hub import Fault, Hub
from vllm_operator.report import Fetched, Reason, parse_progress


class TestFetch:
    def test_brings_what_vllm_needs_and_nothing_else(self, client: Client, tiny: Path) -> None:
        commit = client.hub.add("org/tiny", tiny).sha
        done = client.run("hf://org/tiny")
        assert (done.code, done.err) == (0, "")
        snapshot = client.snapshot("org/tiny", commit)
        assert held_in(snapshot) == NEEDED
        assert matches(tiny, snapshot)
        assert done.report == Fetched(commit, sum((tiny / name).stat().st_size for name in NEEDED))
        progress = parse_progress(done.out)
        assert progress
        assert progress.percent == 100
        assert done.out.splitlines()[-1] == f"hf://org/tiny at {commit} is in the cache: 0.0 GiB."

    def test_a_second_run_downloads_nothing(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/tiny", tiny)
        first = client.run("hf://org/tiny")
        client.hub.seen.clear()
        second = client.run("org/tiny")
        assert (second.code, second.report) == (0, first.report)
        assert [one.path for one in client.hub.seen] == ["/api/models/org/tiny/revision/main?blobs=true"]

    def test_a_branch_that_moved_brings_only_what_changed(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/tiny", tiny)
        client.run("org/tiny")
        (tiny / "generation_config.json").write_text('{"temperature": 1}', encoding="utf-8")
        commit = client.hub.add("org/tiny", tiny).sha
        client.hub.seen.clear()
        assert client.run("org/tiny").report == Fetched(commit, sum((tiny / name).stat().st_size for name in NEEDED))
        assert [Path(one.path).name for one in client.hub.requests("/resolve/")] == ["generation_config.json"]
        assert matches(tiny, client.snapshot("org/tiny", commit))

    def test_a_pinned_commit_stays_what_it_was(self, client: Client, tiny: Path) -> None:
        old = client.hub.add("org/tiny", tiny).sha
        shutil.copytree(tiny, tiny.with_name("newer"))
        client.hub.add("org/tiny", write(tiny.with_name("newer"), {"config.json": {"hidden_size": 1}}))
        done = client.run("org/tiny", "--revision", old)
        assert isinstance(done.report, Fetched)
        assert done.report.commit == old
        assert json.loads((client.snapshot("org/tiny", old) / "config.json").read_text(encoding="utf-8")) == CONFIG
        assert not (client.snapshot("org/tiny", old).parents[1] / "refs").exists()

    def test_a_sharded_model_has_the_shards_of_its_index(self, client: Client, sharded: Path) -> None:
        commit = client.hub.add("org/sharded", sharded).sha
        assert client.run("org/sharded").code == 0
        snapshot = client.snapshot("org/sharded", commit)
        shards = {f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
        assert held_in(snapshot) == {"config.json", "model.safetensors.index.json"} | shards
        client.hub.seen.clear()
        assert client.run("org/sharded").code == 0
        assert len(client.hub.seen) == 1

    def test_a_shard_that_is_missing_is_said(self, client: Client, sharded: Path) -> None:
        (sharded / "model-00002-of-00002.safetensors").unlink()
        client.hub.add("org/sharded", sharded)
        done = client.run("org/sharded")
        assert (done.code, done.failure.reason) == (3, Reason.WEIGHTS)
        assert "lacks model-00002-of-00002.safetensors" in done.failure.message

    def test_an_adapter(self, client: Client, tmp_path: Path) -> None:
        files = {"adapter_config.json": {"r": 8}, "adapter_model.safetensors": safetensors(3, 1000)}
        beside = {"adapter_model.bin": b"duplicate", "training_args.bin": b"x", "checkpoint-5/adapter_config.json": {}}
        commit = client.hub.add("org/adapter", write(tmp_path / "adapter", {**files, **beside})).sha
        assert client.run("org/adapter").code == 0
        assert held_in(client.snapshot("org/adapter", commit)) == set(files)

    def test_patterns_narrow_the_choice(self, client: Client, tiny: Path) -> None:
        commit = client.hub.add("org/tiny", tiny).sha
        wanted = ("--include", "*.bin", "--include", "*.json", "--exclude", "tokenizer*", "--exclude", "model.s*")
        assert client.run("org/tiny", *wanted).code == 0
        kept = held_in(client.snapshot("org/tiny", commit))
        assert kept == {"config.json", "generation_config.json", "pytorch_model.bin"}

    def test_a_listing_without_sizes_is_asked_for_in_pages(self, client: Client, tiny: Path) -> None:
        client.hub.metadata, client.hub.page = False, 5
        commit = client.hub.add("org/tiny", tiny).sha
        assert client.run("org/tiny").code == 0
        assert held_in(client.snapshot("org/tiny", commit)) == NEEDED
        assert len(client.hub.requests("/tree/")) == 4

    def test_a_mirror_under_a_path_and_content_on_another_host(self, tiny: Path, tmp_path: Path) -> None:
        with Hub(prefix="/mirror/hf") as hub:
            hub.content_host = f"http://localhost:{hub.port}"
            commit = hub.add("org/private", tiny, token=TOKEN).sha
            client = Client(hub, tmp_path)
            assert client.run("org/private", HF_TOKEN=TOKEN).code == 0
            assert matches(tiny, client.snapshot("org/private", commit))
            assert {one.authorized for one in hub.requests("/resolve/")} == {True}
            # No request may carry the token to another host.
            assert {one.authorized for one in hub.requests("/content/")} == {False}

    def test_the_cache_can_be_named(self, client: Client, tiny: Path, tmp_path: Path) -> None:
        client.hub.add("org/tiny", tiny)
        assert client.run("org/tiny", "--cache", str(tmp_path / "other")).code == 0
        assert (tmp_path / "other" / "hub" / "models--org--tiny" / "refs" / "main").is_file()
        assert not client.home.exists()


class TestInterrupted:
    @pytest.fixture
    def stuck(self, client: Client, tiny: Path) -> Iterator[subprocess.Popen[str]]:
        """A download that hangs in the middle of the weights."""
        client.hub.add("org/tiny", tiny)
        fault = client.hub.fault(Fault(WEIGHTS, times=1, after=5 * MEBI // 2, held=True))
        child = client.start("org/tiny")
        assert fault.reached.wait(30)
        deadline = time.monotonic() + 30
        while not ((found := client.partial("org/tiny")) and found.stat().st_size >= 2 * MEBI):
            assert time.monotonic() < deadline, "nothing arrived"
            time.sleep(0.02)
        yield child
        child.kill()
        child.communicate()

    def test_a_kill_loses_nothing(self, client: Client, tiny: Path, stuck: subprocess.Popen[str]) -> None:
        stuck.kill()
        stuck.wait()
        partial = client.partial("org/tiny")
        assert partial
        arrived = partial.stat().st_size
        assert 2 * MEBI <= arrived < SIZE
        client.hub.faults.clear()
        done = client.run("org/tiny")
        assert isinstance(done.report, Fetched)
        size = (tiny / "model.safetensors").stat().st_size
        asked = client.content_requests()
        assert [(one.status, one.first, one.sent) for one in asked if one.first] == [(206, arrived, size - arrived)]
        assert len([one for one in asked if not one.first]) <= 1  # the one that was held
        assert matches(tiny, client.snapshot("org/tiny", done.report.commit))
        assert client.partial("org/tiny") is None

    def test_half_a_snapshot_is_not_to_be_seen(self, client: Client, stuck: subprocess.Popen[str]) -> None:
        stuck.kill()
        stuck.wait()
        folder = client.blobs("org/tiny").parent
        assert not any((folder / "snapshots").iterdir())
        assert not (folder / "refs").exists()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_at_once(self, stuck: subprocess.Popen[str], number: signal.Signals) -> None:
        stuck.send_signal(number)
        _, said = stuck.communicate(timeout=30)
        assert (stuck.returncode, said) == (128 + number, "")

    def test_a_rest_without_ranges_starts_anew(self, client: Client, stuck: subprocess.Popen[str], tiny: Path) -> None:
        stuck.kill()
        stuck.wait()
        client.hub.faults.clear()
        client.hub.fault(Fault(WEIGHTS, no_ranges=True))
        done = client.run("org/tiny")
        assert isinstance(done.report, Fetched)
        assert matches(tiny, client.snapshot("org/tiny", done.report.commit))

    def test_a_damaged_rest_starts_anew(self, client: Client, stuck: subprocess.Popen[str], tiny: Path) -> None:
        stuck.kill()
        stuck.wait()
        client.hub.faults.clear()
        partial = client.partial("org/tiny")
        assert partial
        with partial.open("r+b") as stream:
            stream.write(b"damaged")
        done = client.run("org/tiny")
        assert isinstance(done.report, Fetched)
        assert matches(tiny, client.snapshot("org/tiny", done.report.commit))

    def test_two_at_once_share_the_work(self, client: Client, tiny: Path, stuck: subprocess.Popen[str]) -> None:
        other = client.start("org/tiny")
        assert other.stdout
        assert parse_progress(other.stdout.readline())  # it has looked around, and waits for the lock
        client.hub.faults.clear()
        assert (stuck.wait(30), other.wait(30)) == (0, 0)
        other.communicate()
        assert sum(one.sent for one in client.content_requests()) == (tiny / "model.safetensors").stat().st_size
