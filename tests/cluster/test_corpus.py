"""Every bad resource that the schema lets through, where the operator runs: it says why, and starts nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from cluster.support.api import NAMESPACE, Api
from cluster.support.service import Service
from cluster.support.unharmed import tracebacks
from corpus import Bad, bad_resources
from kstatus import kstatus
from operator_process import OperatorProcess
from vllm_operator import kinds
from vllm_operator.kinds import Kind

BY_CONDITION = bad_resources("condition")
REFUSED = [bad for bad in BY_CONDITION if bad.reason != "Rejected"]
# What the API server refuses, in words of its own, is one child. The others are made, the servers only if they can run.
REJECTED: Mapping[str, tuple[Kind, ...]] = {
    "autoscaling-behavior": (kinds.AUTOSCALER,),
    "network-policy-peer-empty": (kinds.NETWORK_POLICY, kinds.DEPLOYMENT),
    "pod-template-mount-nowhere": (kinds.DEPLOYMENT,),
    "pod-template-unknown-field": (kinds.DEPLOYMENT,),
    "service-annotation-key": (kinds.SERVICE,),
}
BYSTANDER = "bystander"


@dataclass(frozen=True, slots=True)
class Applied:
    """The bad resources, all in one namespace, and the operator that met them."""

    api: Api
    namespace: str
    operator: OperatorProcess

    def __getitem__(self, name: str) -> Service:
        return Service(self.api, self.namespace, name)


@pytest.fixture(scope="module")
def applied(api: Api, _operator: OperatorProcess) -> Iterator[Applied]:
    """Every bad resource at once, and a good one after them; the operator must outlive them."""
    _operator.start()
    _operator.wait_ready()
    process, since, namespace = _operator.process, _operator.mark(), f"corpus-{secrets.token_hex(3)}"
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for bad in BY_CONDITION:
        api.create(bad.document, namespace)
    Service.create(api, namespace, BYSTANDER)
    yield Applied(api, namespace, _operator)
    api.delete(NAMESPACE, "", namespace)
    assert _operator.process is process
    assert _operator.alive, f"the operator ended by itself with {process.returncode}"
    assert tracebacks(_operator, since) == []


def _said(service: Service, bad: Bad) -> str:
    """Wait until a resource says for good why it cannot be served, and return the sentence."""
    ready = service.wait("Ready", "False", bad.reason)
    assert service.says("Stalled", "True", bad.reason)
    assert kstatus(service.body) == "Failed"
    assert bad.field in ready["message"]
    assert bad.says in ready["message"]
    return str(ready["message"])


def _blamed(service: Service) -> list[tuple[str, str]]:
    """The reason and the message of each step that the resource did not get past."""
    steps = map(service.condition, ("Accepted", "ModelResolved", "Sized"))
    return [(step["reason"], step["message"]) for step in steps if step.get("status") == "False"]


@pytest.mark.parametrize("bad", REFUSED, ids=lambda bad: bad.name)
def test_what_cannot_run_is_said_and_nothing_is_made(bad: Bad, applied: Applied) -> None:
    service = applied[bad.name]
    said = _said(service, bad)
    assert _blamed(service) == [(bad.reason, said)]
    assert service.children() == []
    assert service.pods() == service.pods("preload") == []


@pytest.mark.parametrize("name", REJECTED)
def test_what_the_api_server_rejects_is_said_and_not_made(name: str, applied: Applied) -> None:
    bad, missing = next(bad for bad in BY_CONDITION if bad.name == name), REJECTED[name]
    service = applied[name]
    assert f"{missing[0].kind} {name}" in _said(service, bad)
    assert [kind.kind for kind in missing if service.child(kind)] == []
    assert bool(service.pods()) == (kinds.DEPLOYMENT not in missing)


def test_every_bad_resource_is_among_them(applied: Applied) -> None:
    there = {one["metadata"]["name"] for one in applied.api.list(kinds.RESOURCE, applied.namespace)}
    assert there == {bad.name for bad in BY_CONDITION} | {BYSTANDER}
    assert {bad.name for bad in BY_CONDITION} == {bad.name for bad in REFUSED} | REJECTED.keys()


def test_others_are_served_meanwhile(applied: Applied) -> None:
    applied[BYSTANDER].wait_ready()
