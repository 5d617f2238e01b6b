"""What people do with kubectl, and with the operator's own commands, works as it does with Kubernetes' own kinds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.support.api import Api, Manifest
from cluster.support.covering import differences
from cluster.support.fixtures import Create
from cluster.support.foreign import foreign
from cluster.support.owned import content
from cluster.support.samples import FOLDER
from cluster.support.service import CACHED, HOLD, Service, manifest
from localcluster.access import ClusterAccess
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from operator_process import python_environment
from vllm_operator import kinds

AUTOSCALED = {"replicas": None, "autoscaling": {"minReplicas": 2, "maxReplicas": 5}}
HELD = {"podTemplate": {"metadata": {"annotations": {HOLD: "true"}}}}


class Program:
    """The operator's command line beside the cluster of the test."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._environment = {"PATH": os.defpath, "KUBECONFIG": str(kubeconfig), **python_environment()}
        self._file = folder / "resource.yaml"

    def __call__(self, command: str, resource: Manifest, namespace: str) -> subprocess.CompletedProcess[str]:
        self._file.write_text(yaml.safe_dump(resource))
        words = [sys.executable, "-m", "vllm_operator", command, f"--namespace={namespace}", str(self._file)]
        return subprocess.run(words, env=self._environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def program(cluster: ClusterAccess, tmp_path: Path) -> Program:
    return Program(cluster.kubeconfig, tmp_path)


def _managers(service: Service) -> set[str]:
    return {entry["manager"] for entry in service.body["metadata"]["managedFields"]}


# --- waiting and looking


def test_wait_and_rollout_status(create: Create, kubectl: Kubectl) -> None:
    service = create("web", {"replicas": 2}, HELD)
    wait_for(lambda: len(service.pods()) == 2, message="two pods")
    impatient = kubectl("wait", "--for=condition=Ready", "vd/web", "--timeout=0s", check=False)
    assert impatient.returncode == 1
    service.release_pods()
    kubectl("wait", "--for=condition=Ready", "vd/web", "--timeout=40s")
    kubectl("wait", "--for=jsonpath={.status.phase}=Ready", "vllm/web", "--timeout=40s")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=40s").stdout


def test_get_shows_what_matters(create: Create, kubectl: Kubectl) -> None:
    create("web", {"gpu": {"count": 1, "product": "NVIDIA-L4"}}).wait_ready()
    head, row = (line.split() for line in kubectl("get", "vd").stdout.splitlines())
    assert head == ["NAME", "READY", "REASON", "REPLICAS", "GPU", "GPUS", "AGE"]
    assert row[:-1] == ["web", "True", "Available", "1", "NVIDIA-L4", "1"]
    wide = kubectl("get", "vllm", "web", "--output=wide").stdout
    assert "http://web." in wide
    assert "hf://Qwen/Qwen2.5-7B-Instruct" in wide
    assert "vllmdeployment.vllm-operator.dev/web" in kubectl("get", "all").stdout


def test_endpoint_is_that_of_the_service(create: Create) -> None:
    service = create("web", {"service": {"port": 8080}}).wait_ready()
    child = service.child(kinds.SERVICE)
    assert child is not None
    assert [port["port"] for port in child["spec"]["ports"]] == [8080]
    assert service.status["endpoint"] == f"http://web.{service.namespace}.svc:8080/v1"


def test_describe_shows_events(create: Create, kubectl: Kubectl) -> None:
    service = create("web", {"model": {"trustRemoteCode": True}}).wait_ready()
    wait_for(lambda: service.events("Ready"), message="an Event")
    lines = kubectl("describe", "vd", "web").stdout.splitlines()
    events = [line.split()[:2] for line in lines[lines.index(next(one for one in lines if "Events:" in one)) :]]
    assert ["Normal", "Ready"] in events
    assert ["Warning", "RemoteCode"] in events


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("vd", "GROUP:      vllm-operator.dev"),
        ("vd.spec.model.source", "hf://organisation/name"),
        ("vd.spec.autoscaling.minReplicas", "Fewest replicas"),
        ("vllm.status.conditions", "What holds and what does not"),
    ],
)
def test_explain(field: str, says: str, kubectl: Kubectl, installed: Path) -> None:
    assert installed.exists()
    words = " ".join(kubectl("explain", field).stdout.split())
    assert " ".join(says.split()) in words


# --- applying


def test_apply_and_diff_on_the_client(create: Create, kubectl: Kubectl) -> None:
    resource = manifest("web", {"replicas": 2})
    kubectl.apply(resource)
    service = Service(create("other").api, str(kubectl.namespace), "web").wait_ready()
    before = service.body["metadata"]["generation"]
    assert "unchanged" in kubectl.apply(resource).stdout
    assert kubectl("diff", "--filename=-", input=resource, check=False).returncode == 0
    assert service.body["metadata"]["generation"] == before
    edited = manifest("web", {"replicas": 3})
    changed = kubectl("diff", "--filename=-", input=edited, check=False)
    assert changed.returncode == 1
    assert "+  replicas: 3" in changed.stdout
    assert "configured" in kubectl.apply(edited).stdout
    service.wait_ready()
    assert service.replicas == 3


def test_apply_and_diff_on_the_server(create: Create, kubectl: Kubectl) -> None:
    resource = manifest("web")
    kubectl.apply(resource, "--server-side")
    service = Service(create("other").api, str(kubectl.namespace), "web").wait_ready()
    before = service.body["metadata"]["generation"]
    kubectl.apply(resource, "--server-side")
    assert kubectl("diff", "--server-side", "--filename=-", input=resource, check=False).returncode == 0
    assert service.body["metadata"]["generation"] == before
    assert _managers(service) == {"kubectl", "vllm-operator"}


def test_scaling_by_hand_survives_an_apply_that_does_not_speak_of_it(create: Create, kubectl: Kubectl) -> None:
    kubectl.apply(manifest("web"), "--server-side")
    service = Service(create("other").api, str(kubectl.namespace), "web").wait_ready()
    kubectl("scale", "vd/web", "--replicas=2")
    service.wait_ready()
    kubectl.apply(manifest("web", {"service": {"port": 81}}), "--server-side")
    service.wait_ready()
    assert (service.replicas, service.body["spec"]["service"]["port"]) == (2, 81)


# --- the operator's own commands


@pytest.mark.parametrize("spec", [{}, CACHED, AUTOSCALED], ids=["plain", "cached", "autoscaled"])
def test_diff_is_empty_when_all_is_done(spec: Mapping[str, Any], create: Create, program: Program) -> None:
    service = create("web", spec).wait_ready()
    done = program("diff", manifest("web", spec), service.namespace)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_diff_shows_what_an_edit_would_change(create: Create, program: Program) -> None:
    service = create("web", CACHED, {"networkPolicy": {}}).wait_ready()
    before = service.children()
    edited = manifest("web", CACHED, {"replicas": 2, "service": {"port": 81}})
    done = program("diff", edited, service.namespace)
    assert done.returncode == 1
    changed = {line for line in done.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")}
    assert {"-  replicas: 1", "+  replicas: 2", "-    port: 80", "+    port: 81"} <= changed
    headers = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("+++")}
    gone, more = "planned/NetworkPolicy/web", "planned/PodDisruptionBudget/web"
    assert headers == {"planned/Deployment/web", "planned/Service/web", more, gone}
    assert [content(one) for one in service.children()] == [content(one) for one in before], "nothing was changed"


def test_diff_knows_that_replicas_are_handed_over(create: Create, program: Program) -> None:
    service = create("web", {"replicas": 3}).wait_ready()
    done = program("diff", manifest("web", AUTOSCALED), service.namespace)
    assert done.returncode == 1
    assert "planned/HorizontalPodAutoscaler/web" in done.stdout
    assert "replicas: 1" not in done.stdout


def test_diff_of_a_refused_resource(create: Create, program: Program) -> None:
    service = create("web").wait_ready()
    big = {"model": {"source": "hf://meta-llama/Llama-3.1-70B-Instruct"}, "gpu": {"count": 1, "product": "NVIDIA-L4"}}
    done = program("diff", manifest("web", big), service.namespace)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "refused" in done.stderr


def test_diff_says_what_the_cluster_cannot_hold(create: Create, program: Program) -> None:
    """Without the Prometheus operator its objects cannot be, and that is no reason to show nothing else."""
    monitored = {"monitoring": {"podMonitor": True}}
    service = create("web", monitored).wait_ready()
    done = program("diff", manifest("web", monitored, {"service": {"port": 81}}), service.namespace)
    assert done.returncode == 1, done.stderr
    assert "+    port: 81" in done.stdout
    assert "PodMonitor" in done.stderr


def test_diff_says_what_belongs_to_somebody_else(api: Api, namespace: str, program: Program, installed: Path) -> None:
    assert installed.exists()
    api.create(foreign("Service", "web"), namespace)
    done = program("diff", manifest("web"), namespace)
    assert done.returncode == 1, done.stderr
    assert "+++ planned/Deployment/web" in done.stdout
    assert "planned/Service/web" not in done.stdout
    assert "Service web: a Service of this name exists and somebody else made it" in done.stderr


def test_rendered_manifests_are_what_the_operator_makes(create: Create, program: Program, kubectl: Kubectl) -> None:
    spec = yaml.safe_load((FOLDER / "mistral-7b.yaml").read_text())["spec"]
    resource = {**manifest("web"), "spec": spec}
    service = Service(create("other").api, str(kubectl.namespace), "web")
    rendered = program("render", resource, service.namespace)
    assert rendered.returncode == 0, rendered.stderr
    documents = list(yaml.safe_load_all(rendered.stdout))
    kubectl.apply(resource)
    service.wait_ready()
    live = {(one["kind"], one["metadata"]["name"]): one for one in service.children()}
    assert set(live) == {(one["kind"], one["metadata"]["name"]) for one in documents}
    for one in documents:
        for owner in one["metadata"].get("ownerReferences", ()):
            owner["uid"] = service.uid
        assert differences(one, live[one["kind"], one["metadata"]["name"]]) == []
        kubectl.apply(one, "--server-side", "--force-conflicts")
    service.wait_ready()
    now = {(one["kind"], one["metadata"]["name"]): one for one in service.children()}
    assert [one["metadata"].get("generation") for one in now.values()] == [
        one["metadata"].get("generation") for one in live.values()
    ]
