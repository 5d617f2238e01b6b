"""Another release of the operator, and back: no pod restarts, whatever the release renders differently."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.support.fixtures import Create
from cluster.support.samples import FOLDER, NAMESPACE, Samples
from cluster.support.service import Service
from cluster.support.traffic import Traffic, await_calm
from cluster.support.unharmed import tracebacks
from localcluster.cluster import Cluster
from localcluster.wait import wait_for
from operator_process import PACKAGES, OperatorProcess
from scraping import scrape

CALM_SECONDS = 3.0
NEXT_IMAGE = "vllm/vllm-openai:v0.33.0"
# What the next release does otherwise: in the pod template twice, once in what is around it, in the images.
CHANGES = {
    "render/templates/deployment.yaml.j2": (
        ("terminationMessagePolicy: FallbackToLogsOnError", "terminationMessagePolicy: File"),
        ("failureThreshold: 6", "failureThreshold: 5"),
        ("revisionHistoryLimit: 3", "revisionHistoryLimit: 4"),
    ),
    "render/templates/fetch.yaml.j2": (
        ("terminationMessagePolicy: FallbackToLogsOnError", "terminationMessagePolicy: File"),
    ),
    "plan/types.py": (("vllm/vllm-openai:v0.32.0", NEXT_IMAGE), ("vllm-operator:0.1.0", "vllm-operator:0.2.0")),
    "engine/data/connection_draining.py": (("import errno", "# The next release says more.\nimport errno"),),
}

Seen = dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a package that renders otherwise."""
    folder = tmp_path_factory.mktemp("next")
    shutil.copytree(Path(PACKAGES) / "vllm_operator", folder / "vllm_operator", ignore=shutil.ignore_patterns("*.pyc"))
    for name, changes in CHANGES.items():
        path = folder / "vllm_operator" / name
        text = path.read_text()
        for former, latter in changes:
            assert former in text, f"{name} has no {former!r}"
            text = text.replace(former, latter, 1)
        path.write_text(text)
    return str(folder)


@contextmanager
def _running(release: OperatorProcess) -> Iterator[OperatorProcess]:
    release.start()
    release.wait_ready()
    yield release
    assert release.alive, release.tail()
    assert release.stop() == 0
    assert tracebacks(release) == []


def _pods_and_jobs(services: list[Service]) -> Seen:
    """Who runs, and who ran: by service, the uids of pods and Jobs and the template of the servers."""
    return {
        service.name: {
            "pods": sorted(pod["metadata"]["uid"] for pod in service.pods()),
            "jobs": sorted(job["metadata"]["uid"] for job in service.jobs()),
            "template": service.deployment["spec"]["template"],
        }
        for service in services
    }


def _history(services: list[Service]) -> set[int]:
    return {service.deployment["spec"]["revisionHistoryLimit"] for service in services}


def _outdated(service: Service) -> bool:
    return bool((service.status.get("engine") or {}).get("outdated"))


def _difference(cluster: Cluster, packages: str) -> str:
    """What applying a sample anew would change, as the next release sees it."""
    command = (sys.executable, "-m", "vllm_operator", "diff", "--kubeconfig", str(cluster.kubeconfig))
    environment = {**os.environ, "PYTHONPATH": packages}
    sample = str(FOLDER / "llama-8b.yaml")
    done = subprocess.run(
        [*command, "-n", NAMESPACE, sample], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def _serving(samples: Samples) -> list[Service]:
    """The samples that have servers."""
    services = [service.wait_ready() for service in samples.services()]
    return [service for service in services if service.deployment["spec"]["replicas"]]


def test_upgrade_and_roll_back_restart_no_pod(
    samples: Samples, operator: OperatorProcess, installed: Path, next_release: str, local_cluster: Cluster
) -> None:
    services = _serving(samples)
    before, log = _pods_and_jobs(services), local_cluster.folder / "operator-next.log"
    operator.stop()
    with _running(OperatorProcess(installed, log, packages=next_release)) as release:
        wait_for(
            lambda: all(map(_outdated, services)), message="every resource says that its pods are a release behind"
        )
        await_calm(local_cluster, CALM_SECONDS)
        assert _history(services) == {4}, "what is around the pods follows"
        assert _pods_and_jobs(services) == before
        assert _difference(local_cluster, next_release) == ""
        traffic = Traffic(local_cluster)
        release.restart()
        wait_for(lambda: scrape(release.port).total("resources") >= len(services), message="a pass over every resource")
        await_calm(local_cluster, CALM_SECONDS)
        assert traffic.writes() == []
    operator.start()
    wait_for(lambda: not any(map(_outdated, services)), message="no resource says that any more")
    await_calm(local_cluster, CALM_SECONDS)
    assert _history(services) == {3}
    assert _pods_and_jobs(services) == before


def test_a_change_of_the_spec_brings_the_release_to_the_pods(
    create: Create, operator: OperatorProcess, installed: Path, next_release: str, local_cluster: Cluster
) -> None:
    service = create("renewed").wait_ready()
    operator.stop()
    before = service.deployment["spec"]["template"]
    log = local_cluster.folder / "operator-next.log"
    with _running(OperatorProcess(installed, log, packages=next_release)):
        wait_for(lambda: _outdated(service), message="its pods are a release behind")
        service.edit({"replicas": 2, "service": {"port": 8080}})
        service.wait_ready()
        assert service.deployment["spec"]["template"] == before
        service.edit({"podTemplate": {"metadata": {"annotations": {"renewed": "now"}}}})
        service.wait_ready()
        assert service.container["terminationMessagePolicy"] == "File"
        assert not _outdated(service)
    operator.start()


def test_pods_follow_a_release_when_they_are_told_to(
    create: Create, operator: OperatorProcess, installed: Path, next_release: str, local_cluster: Cluster
) -> None:
    service = create("renewed").wait_ready()
    operator.stop()
    log = local_cluster.folder / "operator-next.log"
    with _running(OperatorProcess(installed, log, {"renew_pods": "true"}, next_release)):
        wait_for(lambda: service.container["terminationMessagePolicy"] == "File", message="the template is the new one")
        service.wait_ready()
        assert not _outdated(service)
    operator.start()
