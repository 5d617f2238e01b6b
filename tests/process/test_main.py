"""The command line as a whole: one sentence for every mistake, exit codes, lazy imports, closed pipes and Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from operator_process import python_environment
from vllm_operator import __main__ as cli
from vllm_operator.api.crd import crd_yaml
from vllm_operator.cli import crd as crd_command
from vllm_operator.errors import Blocked, OperatorError, Transient, UsageError

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PATH": os.defpath, **python_environment()}


@pytest.fixture(autouse=True)
def _called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/vllm-operator"])


def run(*argv: str, code: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "vllm_operator"]
    return subprocess.run(
        [sys.executable, *start, *argv], env=ENVIRONMENT, cwd="/", capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "required: COMMAND"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["run", "--workers", "0"], "--workers='0': must be a whole number from 1 to 256."),
        (["run", "--config", "/nowhere.yaml"], "The configuration /nowhere.yaml cannot be read: "),
        (["run", "--wrokers", "3"], "unrecognized arguments: --wrokers 3"),
        (["run", "--workers"], "expected one argument"),
        (["crd", "extra"], "unrecognized arguments: extra"),
        (["render", "/nowhere.yaml"], "/nowhere.yaml"),
        (["validate", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.count("\n") == 1


def help_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(argv)
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help_and_is_summed_up_as_it_sums_itself_up(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{command} [-h]" in help_of([command, "--help"], capsys)
    assert help_of(["--help", command], capsys) == help_of(["--help"], capsys)


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("/usr/bin/kubectl-vllm", "kubectl vllm"),
        ("/usr/bin/vllm-operator", "vllm-operator"),
        ("/x/vllm_operator/__main__.py", "python -m vllm_operator"),
    ],
)
def test_the_program_is_called_what_the_user_typed(
    name: str, program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "frobnicate"])
    assert cli.main() == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{program}: ")
    assert f"see `{program} --help`" in error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no kubeconfig"), 2),
        (Transient("the server is away"), 1),
        (Blocked("Forbidden", "may not list nodes"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(crd_command, "run", fail)
    assert cli.main(["crd"]) == code
    said = capsys.readouterr().err
    assert said == (f"vllm-operator: {error}\n" if isinstance(error, OperatorError) else "")


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(crd_command, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["crd"])


@pytest.mark.parametrize("argv", [["size", "70B"], ["--help"], ["crd", "--check"]])
def test_what_needs_no_cluster_imports_no_client(argv: list[str]) -> None:
    code = (
        "import sys; from vllm_operator.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sorted({'kopf', 'kubernetes', 'aiohttp', 'asyncio'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = run(*argv, code=code)
    assert done.stderr.strip() == ""


def test_writing_into_a_closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "vllm_operator", "size", "--all-gpus", "70B"]
    done = subprocess.run(argv, env=ENVIRONMENT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_says_nothing() -> None:
    argv = [sys.executable, "-m", "vllm_operator", "validate", "-"]
    child = subprocess.Popen(argv, env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdin is not None
    child.stdin.write("a: 1\n" * 100_000)  # more than a pipe holds: it reads by the time that this returns
    child.send_signal(signal.SIGINT)
    _, error = child.communicate()
    assert (child.returncode, error) == (130, "")


class TestCrd:
    @pytest.fixture
    def checkout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(crd_command, "_checkout", lambda: tmp_path)
        return tmp_path

    def test_what_it_writes_passes_its_check(self, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["crd"]) == 0
        written = capsys.readouterr().out.split()
        assert written == ["crds/vllmdeployments.yaml", "charts/vllm-operator/crds/vllmdeployments.yaml"]
        assert {(checkout / name).read_text(encoding="utf-8") for name in written} == {crd_yaml()}
        assert cli.main(["crd", "--check"]) == 0
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("name", ["crds/vllmdeployments.yaml", "charts/vllm-operator/crds/vllmdeployments.yaml"])
    def test_one_byte_or_a_missing_file_is_stale(
        self, checkout: Path, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cli.main(["crd"])
        stale = checkout / name
        for damage in (lambda: stale.write_text(crd_yaml() + "\n", encoding="utf-8"), stale.unlink):
            damage()
            capsys.readouterr()
            assert cli.main(["crd", "--check"]) == 1
            assert capsys.readouterr().out == f"{name} is not what the models say: run `make crd` and commit it.\n"

    def test_an_installed_package_prints_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(crd_command, "_checkout", lambda: None)
        assert cli.main(["crd"]) == 0
        assert capsys.readouterr().out == crd_yaml()
        assert cli.main(["crd", "--check"]) == 2

    def test_this_checkout_is_recognised(self) -> None:
        assert vars(crd_command)["_checkout"]() == ROOT
