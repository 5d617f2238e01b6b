"""Names at the edge of what Kubernetes allows, and names that meet."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from cluster.support.api import Api, Manifest
from cluster.support.fixtures import Create
from cluster.support.planned import deviations, strays
from cluster.support.service import CACHED, Service
from localcluster.fixtures import NamespaceFactory
from localcluster.wait import wait_for
from operator_process import OperatorProcess
from vllm_operator import kinds
from vllm_operator.naming import MAX_LABEL, RESOURCE_ANNOTATION, child_name

pytestmark = pytest.mark.usefixtures("unharmed")

READY_SECONDS = 90.0
# Every kind of child whose name has a suffix.
SPEC = (CACHED, {"monitoring": {"dashboard": True}})
LONG = "a" * 253
ODD = (
    LONG,
    f"{LONG[:-1]}b",
    f"{LONG[:-1]}c",
    "b" * 63,
    "b" * 64,
    "b" * 57,
    "b" * 58,
    ".".join(["c" * 50] * 4),
    "llama-3.1-8b",
    "llama-3-1-8b",
    "llama.3.1.8b",
    "0",
    "70b",
    "v-70b",
    "a",
    "a-cache",
    "a-cache-cache",
    "a-dashboard",
    "x" * 46 + ".y",
    "x" * 46 + "-y",
)


def _job_name(service: Service) -> str:
    (job,) = service.jobs()
    return str(job["metadata"]["name"])


def _identities(services: list[Service]) -> Counter[tuple[str, str]]:
    return Counter((one["kind"], one["metadata"]["name"]) for service in services for one in service.children())


def _serves_only_its_own(service: Service) -> bool:
    """Whether the Service of a resource selects pods of this resource and of no other."""
    front = service.child(kinds.SERVICE)
    assert front is not None
    selector = ",".join(f"{key}={value}" for key, value in front["spec"]["selector"].items())
    pods = service.api.list(kinds.POD, service.namespace, selector)
    return {pod["metadata"]["annotations"][RESOURCE_ANNOTATION] for pod in pods} == {service.name}


def test_odd_names_get_children_of_their_own(create: Create, api: Api, namespace: str) -> None:
    services = [create(name, *SPEC) for name in ODD]
    services[ODD.index("a")].wait_ready(timeout=READY_SECONDS)
    services.append(create(_job_name(services[ODD.index("a")]), *SPEC))
    for service in services:
        service.wait_ready(timeout=READY_SECONDS)
    assert [f"{service}: {text}" for service in services for text in deviations(service)] == []
    assert strays(api, namespace) == []
    names = _identities(services)
    assert [name for name, count in names.items() if count > 1] == []
    assert [name for _, name in names if len(name) > MAX_LABEL] == []
    assert all(_serves_only_its_own(service) for service in services)


def test_same_name_in_two_namespaces(api: Api, namespace_factory: NamespaceFactory, operator: OperatorProcess) -> None:
    assert operator.alive
    first, second = (Service.create(api, namespace_factory({}), "twin", *SPEC) for _ in range(2))
    for service in (first, second):
        service.wait_ready()
        assert deviations(service) == []
    first.delete()
    wait_for(lambda: not strays(api, first.namespace), message="the first one's children are gone")
    assert first.gone
    assert second.says("Ready", "True")
    assert deviations(second) == []


# --- names that are taken


def _decided(children: list[Manifest]) -> dict[str, Manifest]:
    """What an operator decides about each child, by uid: statuses, and versions with them, are the controllers'."""
    found = {}
    for one in children:
        metadata = {key: one["metadata"].get(key) for key in ("labels", "ownerReferences")}
        found[str(one["metadata"]["uid"])] = {**one, "metadata": metadata, "status": None}
    return found


def test_name_of_anothers_child_is_respected(create: Create) -> None:
    """A resource may be called just as the children of another one, whose name had to be cut, are called."""
    first = create("llama.8b", *SPEC).wait_ready()
    before = _decided(first.children())
    second = create(child_name("llama.8b"), *SPEC)
    second.wait("Ready", "False", "NameConflict")
    wait_for(lambda: second.events("NameConflict"), message="an Event says so")
    assert _decided(first.children()) == before
    assert first.says("Ready", "True")
    second.delete()
    wait_for(lambda: second.gone, message="the second one is gone")
    assert _decided(first.children()) == before


def _service(**metadata: Any) -> Manifest:  # noqa: ANN401 - metadata of any object
    ports = [{"port": 80}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"clusterIP": "None", "ports": ports}}


def test_foreign_object_is_left_alone(create: Create, api: Api, namespace: str) -> None:
    foreign = api.create(_service(name="taken"), namespace)
    service = create("taken")
    service.wait("Ready", "False", "NameConflict")
    live = service.child(kinds.SERVICE)
    assert live is not None
    assert live["metadata"]["resourceVersion"] == foreign["metadata"]["resourceVersion"]
    assert service.deployment["status"] is not None, "the rest is carried out"
    api.delete(kinds.SERVICE, namespace, "taken")
    service.edit({"service": {"port": 8080}})  # the next look would be in half a minute
    service.wait_ready()
    assert deviations(service) == []
