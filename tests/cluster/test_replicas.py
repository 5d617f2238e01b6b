"""Who decides how many servers there are: the user, the autoscaler, or a pause; and how one hands over to another."""

from __future__ import annotations

import pytest

from cluster.support.api import Api, path_of
from cluster.support.fixtures import Create
from cluster.support.service import CACHED, Service, ready_pods
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from operator_process import OperatorProcess
from vllm_operator import kinds

AUTOSCALING = {"minReplicas": 2, "maxReplicas": 5}
AUTOSCALED = {"autoscaling": AUTOSCALING}
BY_AUTOSCALER = {"replicas": None, "autoscaling": AUTOSCALING}
BY_USER = {"autoscaling": None}


def _autoscale_to(service: Service, count: int) -> None:
    """Scale as an autoscaler does: through the Deployment's scale subresource."""
    patch = {"spec": {"replicas": count}}
    service.api.merge(kinds.DEPLOYMENT, service.namespace, service.name, patch, "scale")


def _await_replicas(service: Service, count: int) -> None:
    wait_for(lambda: service.replicas == count, message=f"{service} has {count} replicas")


def _version(service: Service) -> str:
    return str(service.deployment["metadata"]["resourceVersion"])


def _counts_since(service: Service, version: str) -> list[int]:
    """Every number of replicas that the Deployment was asked for since a resource version."""
    states = service.api.history(kinds.DEPLOYMENT, service.namespace, service.name, version)
    return [int(state["spec"]["replicas"]) for state in states]


def _another_pass(service: Service) -> None:
    """Have the operator apply the Deployment once more, and wait until it did."""
    patch = {"metadata": {"labels": {"app.kubernetes.io/name": "spoiled"}}}
    service.api.merge(kinds.DEPLOYMENT, service.namespace, service.name, patch)
    wait_for(
        lambda: service.deployment["metadata"]["labels"]["app.kubernetes.io/name"] == "vllm", message="another pass"
    )


def test_user_decides(create: Create) -> None:
    service = create("web", {"replicas": 3}).wait_ready()
    assert (service.replicas, service.status["replicas"], service.status["readyReplicas"]) == (3, 3, 3)
    service.edit({"replicas": 1})
    service.wait_ready()
    assert (service.replicas, len(ready_pods(service.pods()))) == (1, 1)


def test_direct_scaling_of_the_deployment_is_repaired(create: Create, kubectl: Kubectl) -> None:
    service = create("web", {"replicas": 2}).wait_ready()
    version = _version(service)
    kubectl("scale", "deployment/web", "--replicas=4")
    _await_replicas(service, 2)
    assert 4 in _counts_since(service, version)
    service.wait_ready()


def test_no_replicas_is_a_state_to_be_in(create: Create) -> None:
    service = create("web").wait_ready()
    service.edit({"replicas": 0})
    service.wait_ready(reason="Idle")
    assert service.status["phase"] == "Idle"
    assert service.says("Available", "False", "Idle")
    wait_for(lambda: service.pods() == [], message="no pods")
    service.edit({"replicas": 1})
    service.wait_ready(reason="Available")


def test_autoscaler_decides(create: Create, operator: OperatorProcess) -> None:
    service = create("web", AUTOSCALED).wait_ready()
    autoscaler = service.child(kinds.AUTOSCALER)
    assert autoscaler is not None
    assert autoscaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    _await_replicas(service, 2)  # the least that it may have, which the real autoscaler sees to
    _autoscale_to(service, 3)
    service.wait_ready()
    version = _version(service)
    _another_pass(service)
    operator.restart()
    _another_pass(service)
    service.edit({"lifecycle": {"drainSeconds": 30}})
    service.wait_ready()
    assert service.replicas == 3
    assert set(_counts_since(service, version)) == {3}


def test_without_metrics_the_autoscaler_says_so_and_the_service_serves(create: Create) -> None:
    service = create("web", AUTOSCALED)
    found = service.wait("ScalingReady", "False", "MetricsUnavailable")
    assert "metric" in found["message"]
    service.wait_ready()
    assert service.says("ScalingReady", "False", "MetricsUnavailable")


def test_from_user_to_autoscaler_and_back_keeps_what_runs(create: Create) -> None:
    service = create("web", {"replicas": 4}).wait_ready()
    pods = {pod["metadata"]["uid"] for pod in service.pods()}
    version = _version(service)
    service.edit(BY_AUTOSCALER)
    wait_for(lambda: service.child(kinds.AUTOSCALER), message="an autoscaler")
    service.wait_ready()
    _another_pass(service)
    service.edit(BY_USER | {"replicas": 4})
    wait_for(lambda: service.child(kinds.AUTOSCALER) is None, message="no autoscaler")
    service.wait_ready()
    assert set(_counts_since(service, version)) == {4}
    assert {pod["metadata"]["uid"] for pod in service.pods()} == pods
    service.edit({"replicas": 2})
    service.wait_ready()
    _await_replicas(service, 2)


def test_more_than_the_autoscaler_may_have_is_its_own_business(create: Create) -> None:
    service = create("web", {"replicas": 6}).wait_ready()
    version = _version(service)
    service.edit(BY_AUTOSCALER)
    _await_replicas(service, 5)
    assert set(_counts_since(service, version)) <= {6, 5}


@pytest.mark.parametrize("cache", [{}, CACHED], ids=["ephemeral", "cached"])
def test_suspended_service_frees_its_pods_and_wakes(cache: dict[str, object], create: Create) -> None:
    service = create("web", {"replicas": 2}, cache).wait_ready()
    service.edit({"suspend": True})
    service.wait_ready(reason="Suspended")
    assert service.status["phase"] == "Suspended"
    assert service.replicas == 0
    wait_for(lambda: service.pods() == [], message="no pods")
    assert service.child(kinds.SERVICE)
    service.edit({"suspend": False})
    service.wait_ready(reason="Available")
    assert service.replicas == 2


def test_suspended_autoscaled_service_wakes_to_its_least(create: Create) -> None:
    service = create("web", AUTOSCALED).wait_ready()
    _autoscale_to(service, 4)
    service.wait_ready()
    service.edit({"suspend": True})
    service.wait_ready(reason="Suspended")
    assert service.child(kinds.AUTOSCALER) is None
    assert not service.condition("ScalingReady")
    version = _version(service)
    service.edit({"suspend": False})
    service.wait_ready(reason="Available")
    assert service.replicas == 2
    assert service.child(kinds.AUTOSCALER)
    assert _counts_since(service, version)[-1] == 2


def test_created_suspended_service_downloads_only_when_it_wakes(create: Create) -> None:
    service = create("web", CACHED, {"suspend": True}).wait_ready(reason="Suspended")
    (job,) = service.jobs()
    assert job["spec"]["suspend"] is True
    assert service.says("CacheReady", "False", "Suspended")
    service.edit({"suspend": False})
    service.wait_ready(reason="Available")
    assert service.says("CacheReady", "True")


def test_scale_subresource(create: Create, kubectl: Kubectl, api: Api) -> None:
    service = create("web").wait_ready()
    kubectl("scale", "vd/web", "--replicas=3")
    service.wait_ready()
    assert (service.body["spec"]["replicas"], service.replicas) == (3, 3)
    scale = api.call("GET", path_of(kinds.RESOURCE, service.namespace, "web", "scale"))
    assert scale["status"]["replicas"] == 3
    selected = api.list(kinds.POD, service.namespace, scale["status"]["selector"])
    assert len(selected) == 3
