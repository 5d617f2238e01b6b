"""Nothing is lost while pods come and go: under steady load no request fails, and answers stay the same.

Real pods behind kube-proxy, the operator as a process; figures are printed (pytest -rP).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from localcluster.cluster import Cluster
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from node.support import metrics
from node.support.load import Figures, Load
from node.support.served import READY_SECONDS, Served, serve, tiny
from node.support.stage import Stage, offer_models, on_stage

pytestmark = [pytest.mark.real_node, pytest.mark.long]

NAME = "steady"
# Long enough that every client takes its turn.
SETTLED = 40
# One thread for each server: with more, servers that share two cores wait for each other.
RESOURCES = {"requests": {"cpu": "400m", "memory": "1Gi"}}
ENVIRONMENT = [{"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "nobind"}, {"name": "OMP_NUM_THREADS", "value": "1"}]


@pytest.fixture(scope="module")
def stage(cluster: Cluster, tiny_model: Path) -> Iterator[Stage]:
    with on_stage(cluster, "rollout") as stage:
        offer_models(stage.hub, tiny_model)
        yield stage


def manifest(stage: Stage, name: str, sequences: int = 16, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - of the spec
    found = tiny(stage, name)
    found["spec"]["podTemplate"]["spec"]["containers"][0]["resources"] = RESOURCES
    found["spec"] |= {"lifecycle": {"preStopSeconds": 2, "drainSeconds": 60}, **fields}
    found["spec"]["engine"] |= {"maxSequences": sequences}
    found["spec"]["engine"]["env"] += ENVIRONMENT
    return found


def pods(kubectl: Kubectl, name: str) -> dict[str, dict[str, Any]]:
    """The server's pods that are not about to go, by name."""
    found = kubectl.items("pods", f"--selector=app.kubernetes.io/component=server,app.kubernetes.io/instance={name}")
    return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def gone(kubectl: Kubectl, names: set[str]) -> None:
    """Wait until these pods have ended, down to the last object."""
    here = f"--for=delete pod/{' pod/'.join(names)} --timeout={READY_SECONDS:g}s"
    kubectl("wait", *here.split(), timeout=READY_SECONDS + 10)


def is_ready(pod: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def have_ready(kubectl: Kubectl, count: int) -> None:
    wait_for(
        lambda: len(found := pods(kubectl, NAME)) == count and all(map(is_ready, found.values())),
        READY_SECONDS,
        f"{count} pods are ready",
        interval=0.2,
    )


def test_a_crash_is_said_and_a_server_that_loads_lets_go_of_its_claim(stage: Stage) -> None:
    """On a claim for one node the successor waits for the old pod, which swallows SIGTERM while it loads."""
    lifecycle = {"preStopSeconds": 2, "drainSeconds": 900}
    wanted = manifest(stage, "single", lifecycle=lifecycle, cache={"size": "2Gi", "accessMode": "ReadWriteOnce"})
    single = serve(stage, wanted)
    pod = single.pod["metadata"]["name"]
    engine = next(line.split()[0] for line in single.run("ps").splitlines() if "VLLM::EngineCore" in line)
    single.run("kill", "-9", engine)
    said = wait_for(lambda: _reason(single, "EngineCrashed"), 120, "EngineCrashed is said")
    assert "kubectl logs --previous" in said["message"]
    ended = wait_for(lambda: _ended(single), 120, "the container runs again")
    assert (ended["exitCode"], ended["reason"]) == (0, "Completed")

    began = time.monotonic()
    wanted["spec"]["engine"]["maxSequences"] = 15
    stage.kubectl.apply(wanted)
    gone(stage.kubectl, {pod})
    seconds = time.monotonic() - began
    print(f"a pod that loads is gone after {seconds:.0f} s; its grace period is 922 s")  # noqa: T201
    assert seconds < READY_SECONDS
    single.wait_ready()
    successor = single.pod["metadata"]["name"]
    stage.kubectl("delete", "vllmdeployment", "single")
    gone(stage.kubectl, {successor})


def _reason(served: Served, reason: str) -> dict[str, Any]:
    found = served.condition("Ready")
    return found if found.get("reason") == reason else {}


def _ended(served: Served) -> dict[str, Any]:
    """How the last container ended, once the next one runs."""
    (status,) = served.pod["status"]["containerStatuses"]
    found: dict[str, Any] = status["lastState"].get("terminated", {})
    return found if "running" in status["state"] else {}


@pytest.fixture(scope="module")
def load(stage: Stage) -> Iterator[Load]:
    """Three replicas under load."""
    served = serve(stage, manifest(stage, NAME, replicas=3))
    started = Load(served.url, NAME)
    started.start()
    yield started
    started.stop()
    assert started.since(0).failures == [], "nor between what is looked at"


@contextmanager
def nothing_lost(load: Load, what: str) -> Iterator[None]:
    """Every client asks before, during and after; none of their requests fails."""

    def settle() -> None:
        begin = len(load.outcomes)
        wait_for(lambda: len(load.since(begin).clients) == 6 and len(load.outcomes) > begin + SETTLED, 120, "load")

    settle()
    mark, began = len(load.outcomes), time.monotonic()
    yield
    lasted = time.monotonic() - began
    settle()
    figures: Figures = load.since(mark)
    print(f"{what} ({lasted:.0f} s): {figures}")  # noqa: T201 - these are the figures that the documentation states
    assert figures.failures == []


def edit(stage: Stage, sequences: int, **spec: Any) -> set[str]:  # noqa: ANN401 - fields of the spec
    """Change the spec so that other pods are wanted; the names of the ones that are there."""
    before = set(pods(stage.kubectl, NAME))
    stage.kubectl.apply(manifest(stage, NAME, sequences, **spec))
    return before


def test_a_crash_of_the_operator_changes_no_pod(stage: Stage, load: Load) -> None:
    before = {name: pod["metadata"]["resourceVersion"] for name, pod in pods(stage.kubectl, NAME).items()}
    with nothing_lost(load, "operator killed and started again"):
        stage.operator.restart()
        generation = Served(stage.kubectl, NAME).resource["metadata"]["generation"]
        stage.kubectl("annotate", "vllmdeployment", NAME, "look=again")
        wait_for(lambda: Served(stage.kubectl, NAME).status["observedGeneration"] == generation)
    after = {name: pod["metadata"]["resourceVersion"] for name, pod in pods(stage.kubectl, NAME).items()}
    assert before == after


def test_requests_are_spread_over_all_replicas(stage: Stage, load: Load) -> None:
    addresses = [pod["status"]["podIP"] for pod in pods(stage.kubectl, NAME).values()]
    assert len(addresses) == 3
    with nothing_lost(load, "3 replicas, undisturbed"):
        pass
    served = [metrics.total(f"http://{address}:8000", "vllm:request_success_total") for address in addresses]
    print(f"requests by replica: {', '.join(f'{count:g}' for count in served)}")  # noqa: T201
    assert min(served) > sum(served) / 10


def test_scale_down(stage: Stage, load: Load) -> None:
    before = set(pods(stage.kubectl, NAME))
    with nothing_lost(load, "kubectl scale 3 -> 1"):
        stage.kubectl("scale", "vllmdeployment", NAME, "--replicas=1")
        wait_for(lambda: len(pods(stage.kubectl, NAME)) == 1)
        gone(stage.kubectl, before - set(pods(stage.kubectl, NAME)))


def test_a_rollout_of_one_replica_with_a_spare_gpu(stage: Stage, load: Load) -> None:
    with nothing_lost(load, "rollout of 1 replica, maxSurge 1"):
        before = edit(stage, 15, replicas=1, rollout={"spareGPU": True})
        gone(stage.kubectl, before)
    have_ready(stage.kubectl, 1)


def test_a_rollout_without_a_spare_gpu(stage: Stage, load: Load) -> None:
    stage.kubectl("scale", "vllmdeployment", NAME, "--replicas=2")
    have_ready(stage.kubectl, 2)
    with nothing_lost(load, "rollout of 2 replicas, maxUnavailable 1"):
        before = edit(stage, 14, replicas=2, rollout={"spareGPU": False})
        gone(stage.kubectl, before)
        have_ready(stage.kubectl, 2)


def test_a_deleted_pod(stage: Stage, load: Load) -> None:
    victim = min(pods(stage.kubectl, NAME))
    with nothing_lost(load, "kubectl delete pod"):
        stage.kubectl("delete", "pod", victim, timeout=READY_SECONDS)
