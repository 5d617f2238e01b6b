"""`vllm-operator fetch` as a process, with the real client of the hub, against a hub that can misbehave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hub import Fault, Hub, Seen
from vllm_operator.report import LIMIT, Failed, Fetched, Inspected, Reason, parse_progress, parse_report

ROOT = Path(__file__).resolve().parents[2]
TOKEN, STRANGER = "hf_TheRightToken", "hf_SomebodyElse"
MEBI = 2**20
WEIGHTS = "name=model.safetensors"  # in the address that requests for the weights are redirected to
SIZE = 3 * MEBI + 17
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "vocab_size": 256}


@dataclass(frozen=True)
class Done:
    """A run of the command that ended."""

    code: int
    out: str
    err: str
    text: str

    @property
    def report(self) -> Fetched | Inspected | Failed:
        return parse_report(self.text)

    @property
    def failure(self) -> Failed:
        assert isinstance(self.report, Failed), self
        return self.report


class Client:
    """Runs the command against a hub, with a cache of its own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.home, self.report = hub, folder / "cache", folder / "report.json"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT / "operator"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/nonexistent",
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.hub.endpoint,
        }

    def command(self, source: str, *args: str) -> list[str]:
        return [sys.executable, "-m", "vllm_operator", "fetch", source, "--report", str(self.report), *args]

    def start(self, source: str, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(source, *args),
            env=self.environment | env,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, source: str, *args: str, inside: Sequence[str] = (), **env: str) -> Done:
        """The command's end; no output of it may hold a token."""
        self.report.unlink(missing_ok=True)
        argv = [*inside, *self.command(source, *args)]
        ended = subprocess.run(
            argv, env=self.environment | env, cwd="/", capture_output=True, text=True, check=False, timeout=60
        )
        text = self.report.read_text(encoding="utf-8") if self.report.exists() else ""
        assert len(text.encode()) <= LIMIT
        for token in (TOKEN, STRANGER):
            assert token not in ended.stdout + ended.stderr + text
        assert "Traceback" not in ended.stderr, ended.stderr
        return Done(ended.returncode, ended.stdout, ended.stderr, text)

    def snapshot(self, name: str, commit: str) -> Path:
        return self.home / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / commit

    def blobs(self, name: str) -> Path:
        return self.home / "hub" / f"models--{name.replace('/', '--')}" / "blobs"

    def partial(self, name: str) -> Path | None:
        return next(self.blobs(name).glob("*.incomplete"), None)

    def content_requests(self) -> list[Seen]:
        return self.hub.requests(WEIGHTS)


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path)


def safetensors(seed: int, size: int) -> bytes:
    """A safetensors file of about `size` bytes that holds one tensor."""
    data = size - size % 2
    header = json.dumps({"weight": {"dtype": "F16", "shape": [data // 2], "data_offsets": [0, data]}}).encode()
    return (
        len(header).to_bytes(8, "little")
        + header
        + bytes((seed + index) % 251 for index in range(251)) * (data // 251)
        + bytes(data % 251)
    )


def write(folder: Path, files: dict[str, bytes | object]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write(
        tmp_path / "tiny",
        {
            "config.json": CONFIG,
            "generation_config.json": {},
            "tokenizer.json": {},
            "tokenizer.model": b"spm",
            "chat_template.jinja": b"{{ messages }}",
            "modeling_tiny.py": b"pass\n",
            "model.safetensors": safetensors(1, SIZE),
            "pytorch_model.bin": b"duplicate",
            "tf_model.h5": b"duplicate",
            "flax_model.msgpack": b"duplicate",
            "model.gguf": b"duplicate",
            "onnx/model.onnx": b"duplicate",
            "onnx/config.json": {},
            "original/consolidated.00.pth": b"duplicate",
            "original/params.json": {},
            "README.md": b"# Tiny",
            ".gitattributes": b"*.safetensors filter=lfs",
        },
    )


NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "chat_template.jinja",
    "modeling_tiny.py",
    "model.safetensors",
}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    shards = {f"model-0000{number}-of-00002.safetensors": safetensors(number, 100_000) for number in (1, 2)}
    index = {"metadata": {"total_size": 200_000}, "weight_map": {f"w{at}": name for at, name in enumerate(shards)}}
    bins = {f"pytorch_model-0000{number}-of-00002.bin": b"duplicate" for number in (1, 2)}
    return write(
        tmp_path / "sharded",
        {
            **shards,
            **bins,
            "config.json": CONFIG,
            "model.safetensors.index.json": index,
            "pytorch_model.bin.index.json": {"weight_map": dict.fromkeys("ab", next(iter(bins)))},
            "consolidated.safetensors": safetensors(9, 200_000),
            "left-over.safetensors": b"nobody names it",
        },
    )


def held_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def matches(source: Path, snapshot: Path) -> bool:
    return all((snapshot / name).read_bytes() == (source / name).read_bytes() for name in held_in(snapshot))


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
        _, said = stuck.communicate(timeout=5)
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


class TestNetwork:
    @pytest.mark.parametrize("path", ["/api/models/", "/resolve/", "/content/"])
    def test_what_passes_is_waited_for(self, client: Client, tiny: Path, path: str) -> None:
        client.hub.add("org/tiny", tiny)
        client.hub.fault(Fault(path, times=1, status=503))
        client.hub.fault(Fault(path, times=1, status=429, headers={"Retry-After": "1"}))
        assert client.run("org/tiny").code == 0

    def test_a_connection_that_breaks_goes_on_where_it_was(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/tiny", tiny)
        client.hub.fault(Fault(WEIGHTS, times=1, after=3 * MEBI // 2))
        done = client.run("org/tiny")
        assert isinstance(done.report, Fetched)
        assert [one.first for one in client.content_requests()] == [0, MEBI]
        assert matches(tiny, client.snapshot("org/tiny", done.report.commit))

    def test_damage_is_found_and_healed(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/tiny", tiny)
        client.hub.fault(Fault(WEIGHTS, times=1, damaged=True))
        done = client.run("org/tiny")
        assert isinstance(done.report, Fetched)
        assert matches(tiny, client.snapshot("org/tiny", done.report.commit))

    def test_damage_that_stays_is_not_served(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/tiny", tiny)
        client.hub.fault(Fault(WEIGHTS, damaged=True))
        done = client.run("org/tiny")
        assert (done.code, done.failure.reason) == (1, Reason.HUB)
        assert "model.safetensors of org/tiny arrived damaged twice" in done.failure.message
        assert not any(client.blobs("org/tiny").glob("*.incomplete"))

    def test_a_hub_that_is_away_is_worth_another_try(self, client: Client) -> None:
        with Hub() as gone:
            endpoint = gone.endpoint.replace("//", "//user:hf_SomebodyElse@")
        done = client.run("org/tiny", HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN)
        assert (done.code, done.failure.reason) == (1, Reason.HUB)
        assert "check HF_ENDPOINT" in done.failure.message

    @pytest.mark.parametrize("body", ["[]", "{}", "<html>", '{"id": "a/b", "sha": "../..", "siblings": []}'])
    def test_what_is_no_hub_is_called_so(self, client: Client, body: str, tmp_path: Path) -> None:
        # A file that a plain web server, or a captive portal, serves in place of the description.
        answer = write(tmp_path / "site", {"api/models/org/tiny/revision/main": body.encode()})
        argv = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(answer)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as site:
            try:
                assert site.stdout
                port = site.stdout.readline().split("port ")[1].split()[0]
                done = client.run("org/tiny", HF_ENDPOINT=f"http://127.0.0.1:{port}")
            finally:
                site.terminate()
        assert (done.code, done.failure.reason) == (1, Reason.HUB)

    def test_offline_mode_is_named(self, client: Client) -> None:
        done = client.run("org/tiny", HF_HUB_OFFLINE="1")
        assert (done.code, done.failure.reason) == (1, Reason.HUB)
        assert "HF_HUB_OFFLINE" in done.failure.message


class TestRefused:
    @pytest.mark.parametrize(
        ("source", "token", "expected"),
        [
            ("org/gated", "", (Reason.GATED, "org/gated is gated: ask for access at http")),
            ("org/gated", STRANGER, (Reason.GATED, "the token's account has no access")),
            ("org/gated", "hf_wrong", (Reason.TOKEN, "does not know the token")),
            ("org/private", "", (Reason.MODEL, "needs a token")),
            ("org/private", STRANGER, (Reason.MODEL, "the token may not see it")),
            ("org/private", "hf_wrong", (Reason.TOKEN, "(401)")),
            ("org/private", "hf wr\u00f6ng", (Reason.TOKEN, "characters that no token has")),
            ("org/nothing", "", (Reason.MODEL, "no repository org/nothing")),
            ("org//tiny", "", (Reason.MODEL, "org//tiny is no repository")),
            ("s3://bucket/tiny", "", (Reason.MODEL, "write it as ORGANIZATION/NAME")),
        ],
    )
    def test_who_may_not_read_is_told_why(
        self, client: Client, tiny: Path, source: str, token: str, expected: tuple[Reason, str]
    ) -> None:
        client.hub.tokens.add(STRANGER)
        client.hub.add("org/gated", tiny, gated=True, token=TOKEN)
        client.hub.add("org/private", tiny, token=TOKEN)
        reason, says = expected
        given = {"HF_TOKEN": token} if token else {}
        done = client.run(source, **given)
        assert (done.code, done.failure.reason) == (3, reason)
        assert says in done.failure.message
        assert client.run(source, "--inspect", **given).report == done.report
        assert done.err == f"{done.failure.reason}: {done.failure.message}\n"

    def test_the_right_token_opens_the_gate(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/gated", tiny, gated=True, token=TOKEN)
        assert client.run("org/gated", HF_TOKEN=TOKEN).code == 0

    def test_a_token_that_may_not_read_gated_files(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/tiny", tiny, token=TOKEN)
        client.hub.fault(Fault("/resolve/", status=403))
        done = client.run("org/tiny", HF_TOKEN=TOKEN)
        assert (done.code, done.failure.reason) == (3, Reason.TOKEN)

    def test_a_revision_that_is_not_there(self, client: Client, tiny: Path) -> None:
        client.hub.add("org/tiny", tiny)
        done = client.run("org/tiny", "--revision", "v9")
        assert (done.code, done.failure.reason) == (3, Reason.REVISION)
        assert "org/tiny has no revision v9" in done.failure.message

    def test_no_weights(self, client: Client, tmp_path: Path) -> None:
        client.hub.add("org/empty", write(tmp_path / "empty", {"config.json": CONFIG, "original/model.pth": b"x"}))
        for how in ((), ("--inspect",)):
            done = client.run("org/empty", *how)
            assert (done.code, done.failure.reason) == (3, Reason.WEIGHTS)

    def test_no_config(self, client: Client, tmp_path: Path) -> None:
        client.hub.add("org/bare", write(tmp_path / "bare", {"model.safetensors": safetensors(1, 100)}))
        for how in ((), ("--inspect",)):
            done = client.run("org/bare", *how)
            assert (done.code, done.failure.reason) == (3, Reason.CONFIG_MISSING)

    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"a":' * 100_000])
    def test_a_config_that_cannot_be_read(self, client: Client, tiny: Path, content: bytes) -> None:
        client.hub.add("org/tiny", write(tiny, {"config.json": content}))
        done = client.run("org/tiny", "--inspect")
        assert (done.code, done.failure.reason) == (3, Reason.CONFIG_UNREADABLE)

    def test_a_config_that_fits_into_no_report(self, client: Client, tiny: Path) -> None:
        names = [f"model.layers.{number * 7919 % 99991}.{number * 104729 % 99989}" for number in range(5000)]
        quantization = {"quant_method": "fp8", "modules_to_not_convert": names}
        client.hub.add("org/tiny", write(tiny, {"config.json": {**CONFIG, "quantization_config": quantization}}))
        done = client.run("org/tiny", "--inspect")
        assert (done.code, done.failure.reason) == (3, Reason.CONFIG_TOO_LARGE)
        assert "spec.model.facts" in done.failure.message

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["/"], "--inspect"),
            (["org/tiny", "--report", "/nonexistent/report"], "/nonexistent/report cannot be written"),
            ([], "SOURCE"),
        ],
    )
    def test_a_wrong_call(self, client: Client, args: list[str], says: str) -> None:
        argv = [sys.executable, "-m", "vllm_operator", "fetch", *args]
        ended = subprocess.run(argv, env=client.environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        assert says in ended.stderr
        assert ended.stderr.count("\n") == 1

    def test_without_the_library(self, client: Client) -> None:
        code = (
            "import sys; sys.modules['huggingface_hub'] = None\n"
            "from vllm_operator.__main__ import main; sys.exit(main(['fetch', 'org/tiny']))"
        )
        argv = [sys.executable, "-c", code]
        ended = subprocess.run(argv, env=client.environment, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert "pip install huggingface_hub" in ended.stderr


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
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT / "tests"), "PYTHONDONTWRITEBYTECODE": "1"}
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
