"""Which part of what is configured may be looked at, and who the candidates of an election are."""

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fakeapi import FakeApi
from vllm_operator.app import leadership, run
from vllm_operator.app.preflight import find_scope
from vllm_operator.cluster import Cluster
from vllm_operator.config import OperatorConfig
from vllm_operator.errors import Blocked, UsageError
from vllm_operator.kinds import CHILDREN

OWN = tuple(kind for kind in CHILDREN if not kind.optional)
_PATH = re.compile(r"/apis?/.*?(?:/namespaces/(?P<place>[^/]+))?/(?P<plural>\w+)$")


def grant(server: FakeApi, *refused: str) -> None:
    """Refuse to list these, as `nodes` or `team-a/vllmdeployments`; the Prometheus operator is not installed."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/apis/vllm-operator.dev/v1alpha1":
            return web.json_response({"resources": [{"name": "vllmdeployments"}]})
        if request.path.startswith("/apis/monitoring"):
            return web.Response(status=404)
        found = _PATH.match(request.path)
        assert found, request.path
        place, plural = found["place"], found["plural"]
        if (f"{place}/{plural}" if place else plural) in refused:
            message = f'x cannot list resource "{plural}" in API group "" in the namespace "{place}"'
            return web.json_response({"kind": "Status", "message": message}, status=403)
        return web.json_response({"metadata": {}, "items": []})

    server.answer = answer


async def test_everything_is_looked_at_by_default(server: FakeApi) -> None:
    grant(server)
    async with Cluster(kubeconfig=server.kubeconfig) as cluster:
        scope = await find_scope(cluster, ())
    assert (scope.namespaces, scope.places, scope.children, scope.nodes) == ((), (None,), OWN, True)
    assert str(scope) == "all namespaces"


async def test_several_namespaces_and_the_nodes(server: FakeApi) -> None:
    grant(server)
    async with Cluster(kubeconfig=server.kubeconfig) as cluster:
        scope = await find_scope(cluster, ("team-a", "team-b"))
    assert (scope.places, scope.nodes) == (("team-a", "team-b"), True)
    assert str(scope) == "namespaces team-a, team-b"


async def test_without_rights_on_nodes_it_works_without_them(server: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    grant(server, "nodes")
    async with Cluster(kubeconfig=server.kubeconfig) as cluster:
        scope = await find_scope(cluster, ("team-a",))
    assert (scope.namespaces, scope.children, scope.nodes) == (("team-a",), OWN, False)
    said = "Node: GPUs are taken as the GPU table says: The operator may not list nodes"
    assert [record.getMessage() for record in caplog.records if said in record.getMessage()]


async def test_a_namespace_that_is_not_granted_keeps_nobody_from_the_others(
    server: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    grant(server, "team-a/vllmdeployments")
    async with Cluster(kubeconfig=server.kubeconfig) as cluster:
        scope = await find_scope(cluster, ("team-a", "team-b"))
    assert scope.namespaces == ("team-b",)
    assert "namespace team-a is not served: The operator may not list vllmdeployments" in caplog.text


async def test_without_any_namespace_there_is_nothing_to_do(server: FakeApi) -> None:
    grant(server, "team-a/vllmdeployments", "team-b/vllmdeployments")
    async with Cluster(kubeconfig=server.kubeconfig) as cluster:
        with pytest.raises(Blocked, match="may not list vllmdeployments"):
            await find_scope(cluster, ("team-a", "team-b"))


def election(server: FakeApi, **fields: Any) -> OperatorConfig:  # noqa: ANN401 - fields of the configuration
    return OperatorConfig(kubeconfig=server.kubeconfig, health_port=0, leader_elect=True, **fields)


async def test_outside_of_a_pod_the_lease_needs_a_place(server: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "_OWN_NAMESPACE", Path("/nowhere"))
    with pytest.raises(UsageError, match=r"^--leader-elect=true needs --lease-namespace outside of a pod: .*\.$"):
        await run(election(server))


async def test_in_a_pod_the_lease_is_in_its_namespace(
    server: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "namespace"
    own.write_text("operators\n")
    monkeypatch.setattr(leadership, "_OWN_NAMESPACE", own)
    assert await _asked_for_lease(server, election(server)) == "operators"
    assert await _asked_for_lease(server, election(server, lease_namespace="elsewhere")) == "elsewhere"


async def _asked_for_lease(server: FakeApi, config: OperatorConfig) -> str:
    """Run as a follower until the Lease is looked at, then end; the namespace in which it is."""
    asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    grant(server)
    others = server.answer

    async def answer(request: web.Request) -> web.StreamResponse:
        if "/leases" not in request.path:
            return await others(request)
        if not asked.done():
            asked.set_result(request.path.split("/")[5])
        spec = {"holderIdentity": "another", "leaseDurationSeconds": 15, "renewTime": str(len(server.requests))}
        return web.json_response({"metadata": {"resourceVersion": "1"}, "spec": spec})

    server.answer = answer
    running = asyncio.create_task(run(config))
    async with asyncio.timeout(20):
        found = await asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0, "a follower that is asked to end has not failed"
    return found
