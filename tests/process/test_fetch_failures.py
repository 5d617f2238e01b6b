"""`vllm-operator fetch` against a hub that misbehaves or refuses: what is waited for, and how the rest is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fetching import (
    CONFIG,
    MEBI,
    STRANGER,
    TOKEN,
    WEIGHTS,
    Client,
    matches,
    safetensors,
    write,
)
from hub import Fault, Hub
from vllm_operator.report import Fetched, Reason


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
        done = client.run("org/tiny", HF_ENDPOINT=client.hub.endpoint.replace("//", "//user:hf_SomebodyElse@"))
        assert (done.code, done.failure.reason) == (1, Reason.HUB)
        assert "model.safetensors of org/tiny arrived damaged twice" in done.failure.message
        assert STRANGER not in done.text
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
