"""Tools that wait by kstatus see what is true: helm 4 waits with the same library as Flux (sigs.k8s.io/cli-utils)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm import Helm
from localcluster import build
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from operator_process import OperatorProcess

READY = {"model": {"source": "hf://Qwen/Qwen3-8B", "maxLength": 8192}, "gpu": {"product": "NVIDIA-L4"}}
REFUSED = {"model": {"source": "hf://meta-llama/Llama-3.1-70B-Instruct"}, "gpu": {"product": "NVIDIA-L4", "count": 1}}


@pytest.fixture
def helm(kubectl: Kubectl) -> Helm:
    build.ensure(["helm"])
    return Helm(kubectl, kubectl.namespace or "")


@pytest.fixture
def stopped(operator: OperatorProcess) -> OperatorProcess:
    """The operator, not running; the next test finds it running again."""
    operator.stop()
    return operator


def _chart(folder: Path, spec: dict[str, Any]) -> Path:
    chart = folder / "service"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(yaml.safe_dump({"apiVersion": "v2", "name": "service", "version": "1.0.0"}))
    resource = {
        "apiVersion": "vllm-operator.dev/v1alpha1",
        "kind": "VLLMDeployment",
        "metadata": {"name": "service"},
        "spec": spec,
    }
    (chart / "templates" / "service.yaml").write_text(yaml.safe_dump(resource))
    return chart


@pytest.mark.usefixtures("operator")
def test_a_wait_ends_when_the_resource_is_ready(helm: Helm, kubectl: Kubectl, tmp_path: Path) -> None:
    helm("install", "service", str(_chart(tmp_path, READY)), "--wait", "--timeout=60s")
    found = kubectl.get("vllmdeployment", "service")
    assert found is not None
    conditions = {one["type"]: one["status"] for one in found["status"]["conditions"]}
    assert conditions["Ready"] == "True"


@pytest.mark.usefixtures("operator")
def test_a_wait_fails_when_the_resource_is_refused(helm: Helm, tmp_path: Path) -> None:
    answer = helm("install", "service", str(_chart(tmp_path, REFUSED)), "--wait", "--timeout=8s", check=False)
    assert "not ready" in answer.lower() or "Failed" in answer, answer
    assert "STATUS: deployed" not in answer


@pytest.mark.usefixtures("stopped")
def test_a_wait_does_not_end_before_the_operator_has_looked(helm: Helm, tmp_path: Path) -> None:
    answer = helm("install", "service", str(_chart(tmp_path, READY)), "--wait", "--timeout=5s", check=False)
    assert "STATUS: deployed" not in answer, answer


def test_kubectl_waits_and_shows_the_rollout(operator: OperatorProcess, kubectl: Kubectl, tmp_path: Path) -> None:
    assert operator.alive
    kubectl("apply", f"--filename={_chart(tmp_path, READY) / 'templates'}")
    waiting: subprocess.CompletedProcess[str] = kubectl(
        "wait", "--for=condition=Ready", "vllmdeployment/service", "--timeout=60s", timeout=70
    )
    assert "condition met" in waiting.stdout
    wait_for(lambda: kubectl.get("deployment", "service"), message="the Deployment")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/service", "--timeout=30s").stdout
