"""The cache on file systems that lack something, names that lead out of it, errors of the disk, and what is shown."""

from __future__ import annotations

import argparse
import errno
import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from vllm_operator.cli import fetch as command
from vllm_operator.errors import UsageError
from vllm_operator.fetch import progress
from vllm_operator.fetch.cache import SMALL, Cache, check
from vllm_operator.fetch.failures import Request, explain
from vllm_operator.fetch.selection import File
from vllm_operator.report import PROGRESS, Reason

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = File("config.json", 6, "a" * 40)
SAME = File("sub/other.json", 6, "a" * 40)
LARGE = File("model.safetensors", SMALL + 1, "b" * 64)
ASKED = Request("org/name", "main", "https://user:secret@hub.example", "hf_secret")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    filled = Cache(tmp_path / "hub", "org/name")
    filled.prepare()
    filled.blob(CONFIG).write_bytes(b"config")
    with filled.blob(LARGE).open("wb") as stream:
        stream.truncate(LARGE.size)
    return filled


def test_a_snapshot_links_to_blobs_by_relative_paths(cache: Cache, tmp_path: Path) -> None:
    cache.finish((CONFIG, SAME, LARGE), COMMIT, "refs/pr/1")
    moved = (tmp_path / "hub").rename(tmp_path / "mounted-elsewhere")
    there = Cache(moved, "org/name")
    assert there.link(SAME, COMMIT).is_symlink()
    assert all(there.links(file, COMMIT) for file in (CONFIG, SAME, LARGE))
    assert (there.folder / "refs" / "refs" / "pr" / "1").read_text(encoding="utf-8") == COMMIT


def test_the_configuration_is_shown_last(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    true = Path.symlink_to

    def link(self: Path, target: str) -> None:
        made.append(self.name)
        true(self, target)

    monkeypatch.setattr(Path, "symlink_to", link)
    cache.finish((CONFIG, SAME, LARGE), COMMIT, "main")
    assert made == ["other.json", "model.safetensors", "config.json"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_links_large_files_are_moved(cache: Cache, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    cache.finish((CONFIG, SAME, LARGE), COMMIT, "main")
    assert all(cache.links(file, COMMIT) and cache.has(file, COMMIT) for file in (CONFIG, SAME, LARGE))
    assert not cache.blob(LARGE).exists()
    cache.finish((CONFIG, SAME, LARGE), COMMIT, "main")


def test_another_error_is_not_taken_for_that(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(OSError, match="No space"):
        cache.finish((CONFIG,), COMMIT, "main")


def test_a_blob_of_another_size_is_not_the_file(cache: Cache) -> None:
    cache.blob(CONFIG).write_bytes(b"cut")
    assert not cache.has(CONFIG, COMMIT)
    assert cache.arrived(CONFIG, COMMIT) == 0
    cache.partial(CONFIG).write_bytes(b"conf")
    assert cache.arrived(CONFIG, COMMIT) == 4


@pytest.mark.parametrize(
    ("file", "commit", "revision"),
    [
        (CONFIG, "main", "main"),
        (CONFIG, COMMIT, "../../x"),
        (CONFIG, COMMIT, "/etc/passwd"),
        (File("../x", 1, "a" * 40), COMMIT, "main"),
        (File("/x", 1, "a" * 40), COMMIT, "main"),
        (File("a/../../x", 1, "a" * 40), COMMIT, "main"),
        (File("", 1, "a" * 40), COMMIT, "main"),
        (File("x", 1, ""), COMMIT, "main"),
        (File("x", 1, "../" + "a" * 37), COMMIT, "main"),
        (File("x", -1, "a" * 40), COMMIT, "main"),
    ],
)
def test_names_that_lead_out_of_a_cache_are_refused(file: File, commit: str, revision: str) -> None:
    check((CONFIG,), COMMIT, "refs/pr/1")
    with pytest.raises(ValueError, match=r"its revision|its commit|it lists"):
        check((file,), commit, revision)


@pytest.mark.parametrize(
    ("error", "reason", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/cache/x"), Reason.SPACE, "/cache/x is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Reason.SPACE, "the cache is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), Reason.CACHE, f"for user {os.getuid()}"),
        (OSError(errno.EIO, "Input/output error", "/cache"), Reason.CACHE, "Input/output error"),
        (ValueError("proxy http://me:hf_secret@proxy"), Reason.HUB, "http://***@proxy"),
        (KeyError("hf_secret"), Reason.HUB, "KeyError: '***'"),
    ],
)
def test_errors_become_sentences_without_secrets(error: Exception, reason: Reason, says: str) -> None:
    failure = explain(error, ASKED)
    assert (failure.reason, failure.passes) == (reason, reason is Reason.HUB)
    assert says in str(failure)
    assert "secret" not in str(failure)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "lines"), [(io.StringIO(), True), (Terminal(), False)])
def test_progress_is_a_line_now_and_then_and_one_line_on_a_terminal(
    stream: io.StringIO, *, lines: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.001)
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.001)
    counted, enough = iter(range(10**9)), threading.Event()

    def arrived() -> int:
        now = next(counted)
        if now == 5:
            enough.set()
        return min(now, 10) * 2**30

    with progress.shown(stream, arrived, 10 * 2**30):
        assert enough.wait(10)
    said = stream.getvalue()
    assert said.count("\n") == (said.count("fetched") if lines else 1)
    assert all(PROGRESS.fullmatch(line) for line in said.replace("\r\x1b[K", "\n").split("\n") if line)


def test_the_log_hears_of_progress_every_five_seconds_at_most() -> None:
    assert progress.LOG_SECONDS >= 5


class TestReportFile:
    def test_is_the_termination_log_where_there_is_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        log = tmp_path / "termination-log"
        monkeypatch.setattr(command, "TERMINATION_LOG", log)
        assert command._report_file(None) is None
        log.touch()
        assert command._report_file(None) == log

    def test_must_be_writable(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot be written"):
            command._report_file(tmp_path)


def test_help_is_short() -> None:
    parser = argparse.ArgumentParser()
    commands: Any = parser.add_subparsers()
    command.add_parser(commands)
    shown = commands.choices["fetch"].format_help()
    assert shown.count("\n") < 35
    assert "exit codes: 0 done, 1 worth another try" in shown
