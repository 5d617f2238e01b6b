"""`kubectl vllm ...`: the command line as a plugin of the real kubectl."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from localcluster.access import ClusterAccess
from localcluster.kubectl import Kubectl

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "manifests" / "samples" / "mistral-7b.yaml"


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A folder on PATH that holds what installing the package puts there."""
    script = tmp_path / "kubectl-vllm"
    main = "import sys; from vllm_operator.__main__ import main; sys.exit(main())"
    script.write_text(f"#!{sys.executable}\n{main}\n")
    script.chmod(0o755)
    return tmp_path


def run(kubectl: Kubectl, plugins: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{plugins}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "operator"),
        "KUBECONFIG": str(kubectl.kubeconfig),
    }
    program = [str(kubectl.program), "vllm", *words]
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_kubectl_finds_it(cluster: ClusterAccess, plugins: Path) -> None:
    done = run(cluster.kubectl, plugins, "size", "--model", "Qwen/Qwen3-8B", "--gpu", "H100")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Fits: 1 x H100")


def test_it_names_itself_as_it_is_called(cluster: ClusterAccess, plugins: Path) -> None:
    assert "usage: kubectl vllm" in run(cluster.kubectl, plugins, "--help").stdout


def test_diff_asks_the_cluster_that_kubectl_asks(
    cluster: ClusterAccess, installed: Path, namespace: str, plugins: Path
) -> None:
    assert installed.exists()
    done = run(cluster.kubectl, plugins, "diff", "--namespace", namespace, str(SAMPLE))
    assert done.returncode == 1, done.stderr
    assert "+kind: Deployment" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["render", "no-such-file.yaml"], "no-such-file.yaml cannot be read"),
        (["size", "--model", "no/such-thing", "--gpu", "H100"], "no/such-thing"),
        (["size", "--model", "Qwen/Qwen3-8B", "--gpu", "H1000"], "H1000"),
        (["validate", str(ROOT / "README.md")], "README.md"),
    ],
)
def test_bad_input_is_one_sentence(cluster: ClusterAccess, plugins: Path, words: list[str], says: str) -> None:
    done = run(cluster.kubectl, plugins, *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
