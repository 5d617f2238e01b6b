"""`make demo` from beginning to end, chat answer and all, beside a demo that may be running."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import stage
from localcluster import build
from localcluster.paths import cache_root
from operator_process import ROOT

pytestmark = pytest.mark.real_node


class Demo:
    """Runs `python -m demo` as the Makefile does."""

    def __init__(self, cache: Path) -> None:
        self._environment = os.environ | {"PYTHONPATH": "operator:tests", "VLLM_OPERATOR_CACHE": str(cache)}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.shell(f"{sys.executable} -m demo {' '.join(arguments)}")

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    build.ensure()
    for found in cache_root().iterdir():
        if found.name != "run":  # all that is built once, but no cluster
            (tmp_path / found.name).symlink_to(found)
    demo = Demo(tmp_path)
    yield demo
    demo("--down")


def _running_in(folder: Path) -> list[str]:
    """Command lines of the processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def _try(demo: Demo, shown: str) -> None:
    """Run what the demo says to try next, in the order in which it says it."""
    lines = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    export = next(line for line in lines if line.startswith("export "))
    commands = [line for line in lines if line.startswith("kubectl ")]
    assert len(commands) > 5
    for command in commands:
        answer = demo.shell(f"{export}; {command}")
        fine = (0, 1) if "vllm diff" in command else (0,)  # 1: there are differences
        assert answer.returncode in fine, (command, answer.stderr)


def test_the_demo_shows_samples_ready_and_one_refused_and_leaves_nothing_behind(demo: Demo, tmp_path: Path) -> None:
    shown = demo()
    assert shown.returncode == 0, shown.stderr
    rows = {line.split()[0]: line.split() for line in shown.stdout.splitlines() if re.search(r" (True|False) ", line)}
    assert [name for name in stage.CHOSEN if rows[name][1] != "True"] == []
    assert rows["too-large"][1] == "False"
    assert rows["llama-70b-a100-80"][2:5] == ["NVIDIA-A100-SXM4-80GB", "2", "2"]
    assert "HorizontalPodAutoscaler 2-10" in shown.stdout
    assert "It fits with" in shown.stdout
    answer = re.search(r"  vLLM: (.+)", shown.stdout)
    assert answer
    assert len(answer[1]) == 48, "as many tokens as were asked for, and each is one character"
    said = [line.removeprefix("demo: ") for line in shown.stderr.splitlines() if line.startswith("demo: ")]
    assert any(line.startswith(f"{stage.CHAT}: ") for line in said), "what the answer waits for"
    assert re.fullmatch(r"done after \d+ s", said[-1])
    _try(demo, shown.stdout)

    again = demo()
    assert again.returncode == 0, again.stderr
    assert re.search(r"  vLLM: .{48}\n", again.stdout), "the cluster that is up already answers"

    assert _running_in(tmp_path) != []
    assert "stopped and removed" in demo("--down").stdout
    assert _running_in(tmp_path) == []
    assert not (tmp_path / "run" / stage.NAME).exists()
    assert "nothing was running" in demo("--down").stdout


def test_a_failing_operator_is_a_sentence_and_its_log(demo: Demo, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "vllm_operator").mkdir(parents=True)
    (broken / "vllm_operator" / "__main__.py").write_text("raise SystemExit('cannot work like this')")
    start = f"import operator_process; operator_process.PACKAGES = {str(broken)!r}; from demo.__main__ import main"
    failed = demo.shell(f'{sys.executable} -c "{start}; import sys; sys.exit(main([]))"')
    assert failed.returncode == 1
    assert "demo: the operator ended at once" in failed.stderr
    assert "cannot work like this" in failed.stderr
    assert "Traceback" not in failed.stderr
