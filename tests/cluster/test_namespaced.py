"""Operators with rights in certain namespaces only, side by side: each does its work, and none looks beyond its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

import rights
from cluster.support.api import NAMESPACE, Manifest
from cluster.support.arena import Arena
from cluster.support.rivals import SHORT
from cluster.support.service import Service
from cluster.support.unharmed import tracebacks
from localcluster import probe
from localcluster.audit import AuditEvent
from localcluster.wait import wait_for
from operator_process import ACCOUNT, ROOT, USER, OperatorProcess
from vllm_operator import kinds

INSTALL = ROOT / "manifests" / "install-namespaced.yaml"
_PLACEHOLDER = "namespace: models\n"


def manifests(namespace: str) -> list[Manifest]:
    """What is installed into a namespace, as its comment says."""
    return list(yaml.safe_load_all(INSTALL.read_text().replace(_PLACEHOLDER, f"namespace: {namespace}\n")))


@dataclass(frozen=True, slots=True)
class Team:
    """A namespace with an operator of its own, and what it asked for."""

    arena: Arena
    namespace: str
    operator: OperatorProcess

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{ACCOUNT}"

    def requests(self) -> list[AuditEvent]:
        """Every request about objects, watches too."""
        return [one for one in self.arena.cluster.audit_events(self.user) if one.resource]

    def may(self, verb: str, resource: str, namespace: str) -> bool:
        asked = ("auth", "can-i", verb, resource, f"--namespace={namespace}", f"--as={self.user}")
        return self.arena.cluster.kubectl(*asked, check=False).returncode == 0


def _install(arena: Arena, namespace: str) -> Team:
    arena.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    parts = [one for one in manifests(namespace) if one["kind"] not in {"Deployment", "CustomResourceDefinition"}]
    arena.cluster.kubectl.apply(parts, "--server-side")
    account = arena.cluster.kubeconfig_for(ACCOUNT, namespace)
    settings = {"namespace": namespace, "leader_elect": "true", "lease_namespace": namespace, **SHORT}
    team = Team(arena, namespace, OperatorProcess(account, arena.cluster.folder / f"{namespace}.log", settings))
    wait_for(lambda: team.may("list", "pods", namespace), message=f"the Role in {namespace}")
    return team


@pytest.fixture
def teams(arena: Arena, arena_namespace: str) -> Iterator[list[Team]]:
    """Two, with operators that are ready."""
    found = [_install(arena, f"{arena_namespace}-{letter}") for letter in "ab"]
    for team in found:
        team.operator.start()
    for team in found:
        team.operator.wait_ready()
    yield found
    for team in found:
        print(f"--- {team.namespace} ---\n{team.operator.tail()}")  # noqa: T201 - shown when the test fails
        if team.operator.alive:
            team.operator.kill()
        arena.api.delete(NAMESPACE, "", team.namespace)


def _work(team: Team) -> None:
    """Create, change and lose things."""
    service = Service.create(team.arena.api, team.namespace, "chat").wait_ready()
    service.edit({"service": {"port": 9000}})
    team.arena.api.delete(kinds.DEPLOYMENT, team.namespace, "chat")
    wait_for(lambda: service.child(kinds.DEPLOYMENT), message="the Deployment is back")
    service.wait_ready()
    Service.create(team.arena.api, team.namespace, "any", {"gpu": None}).wait("Sized")


def test_each_operator_stays_within_its_namespace(teams: list[Team]) -> None:
    for team in teams:
        _work(team)
    for team in teams:
        elsewhere = [one for one in team.requests() if one.namespace != team.namespace]
        assert {(one.verb, one.resource, one.code) for one in elsewhere} == {("list", "nodes", 403)}
        assert [one.uri for one in team.requests() if one.code in {401, 403}] == [one.uri for one in elsewhere]
        roles = [one for one in manifests(team.namespace) if one["kind"] == "Role"]
        granted = rights.granted(rule for role in roles for rule in role["rules"])
        assert sorted(map(str, rights.used(team.requests()) - granted)) == []
    assert all(team.arena.api.get(kinds.LEASE, team.namespace, "vllm-operator") for team in teams)


def test_without_a_look_at_nodes_an_operator_works_and_says_so(teams: list[Team]) -> None:
    team = teams[0]
    guessed = Service.create(team.arena.api, team.namespace, "any", {"gpu": None})
    sized = guessed.wait("Sized")
    wait_for(lambda: guessed.child(kinds.DEPLOYMENT) or guessed.jobs(), message="it is carried out")
    wait_for(lambda: guessed.events("NodesUnknown"), message="that its GPU is a guess is said")
    assert sized["status"] == "True"
    assert "name gpu.product" in str(guessed.status["conditions"])
    named = Service.create(team.arena.api, team.namespace, "named", {"gpu": {"count": None, "product": "NVIDIA-L4"}})
    named.wait("Sized")
    assert "NodesUnknown" not in str(named.status["conditions"])
    log = team.operator.tail(lines=1000)
    assert team.operator.alive
    assert probe.status_of(f"http://127.0.0.1:{team.operator.port}/readyz") == 200
    assert log.count("Node: GPUs are taken as the GPU table says: The operator may not list nodes") <= 2, "say it once"
    assert tracebacks(team.operator) == []


def test_the_rights_end_with_the_namespace(teams: list[Team]) -> None:
    one, other = teams
    assert one.may("patch", "deployments", one.namespace)
    for verb, resource in (("list", "pods"), ("get", "leases"), ("list", "vllmdeployments"), ("patch", "deployments")):
        assert not one.may(verb, resource, other.namespace), f"{verb} {resource}"
    assert not one.may("list", "nodes", one.namespace)
    assert not one.may("get", "secrets", one.namespace)
    assert not one.may("create", "rolebindings", one.namespace)


def test_one_operator_serves_several_namespaces_and_no_other(arena: Arena, arena_namespace: str) -> None:
    names = [f"{arena_namespace}-{letter}" for letter in "cde"]
    for name in names:
        arena.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    wait_for(
        lambda: all(arena.api.get(kinds.SERVICE_ACCOUNT, name, "default") for name in names),
        message="accounts for pods",
    )
    since, log = arena.cluster.audit_mark(), arena.cluster.folder / f"{arena_namespace}.log"
    operator = OperatorProcess(arena.account, log, {"namespace": ",".join(names[:2]), "resync_seconds": "10"})
    operator.start()
    try:
        operator.wait_ready()
        services = [Service.create(arena.api, name, "chat") for name in names]
        for service in services[:2]:
            service.wait_ready()

        def lists() -> Counter[str]:
            mine = [one for one in arena.cluster.audit_events(USER, since) if one.user_agent == "vllm-operator"]
            return Counter(one.namespace for one in mine if (one.verb, one.resource) == ("list", "deployments"))

        wait_for(lambda: lists().keys() == set(names[:2]), message="everything is looked at again")
        assert "the operator has not looked at it yet" in str(services[2].status)
        asked = [one for one in arena.cluster.audit_events(USER, since) if one.resource not in {"", "nodes"}]
        assert {one.namespace for one in asked} == set(names[:2])
        assert f"watching namespaces {names[0]}, {names[1]} with" in operator.tail(lines=1000)
    finally:
        code = operator.stop()
        for name in names:
            arena.api.delete(NAMESPACE, "", name)
    assert code == 0, operator.tail()
