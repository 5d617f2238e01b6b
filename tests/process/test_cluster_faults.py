"""What no healthy API server can be made to do: answers that fail for a while, or not in the expected form."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from fakeapi import FakeApi, kubeconfig
from virtualtime import virtual_time
from vllm_operator import kinds
from vllm_operator.cluster import Cluster, client, sockets
from vllm_operator.cluster.bucket import TokenBucket
from vllm_operator.errors import Blocked, Conflict, Gone, Transient
from vllm_operator.naming import REPAIR_MANAGER

MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "namespace": "team"}}


@pytest.fixture
async def api(server: FakeApi) -> AsyncIterator[Cluster]:
    async with Cluster(kubeconfig=server.kubeconfig, connections=4) as api:
        yield api


async def test_a_name_is_one_part_of_a_path(server: FakeApi, api: Cluster) -> None:
    await api.get(kinds.POD, "team", "../../pods/p/log?follow=true")
    (request,) = server.requests
    assert request.raw_path == "/api/v1/namespaces/team/pods/..%2F..%2Fpods%2Fp%2Flog%3Ffollow=true"


@pytest.mark.parametrize("status", [408, 410, 429, 500, 502, 503, 504])
async def test_what_passes_is_transient(server: FakeApi, api: Cluster, status: int) -> None:
    server.always(status, {"message": "in a while"})
    with pytest.raises(Transient, match="/api/v1/namespaces/team/configmaps/one: in a while") as caught:
        await api.apply(MAP)
    assert caught.value.retry_after is None
    assert len(server.requests) == 1, "retrying is the queue's business"


async def test_a_repair_whose_entry_moved_meanwhile_is_ended_later(server: FakeApi, api: Cluster) -> None:
    """As when a controller reports between the apply and the removal of the entry: JSON Patch finds another there."""
    managers = [{"manager": "kube-controller-manager"}, {"manager": REPAIR_MANAGER}]

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.content_type == "application/json-patch+json":
            return web.json_response({"kind": "Status", "code": 422}, status=422)
        return web.json_response({"metadata": {"managedFields": managers}})

    server.answer = answer
    with pytest.raises(Conflict):
        await api.apply_alone({**MAP, "spec": {}})


@pytest.mark.parametrize(
    ("status", "body", "headers", "seconds"),
    [
        (429, {}, {"Retry_After": "7"}, 7.0),
        (503, {}, {"Retry_After": "1.5"}, 1.5),
        (429, {"details": {"retryAfterSeconds": 9}}, {}, 9.0),
        (429, {}, {"Retry_After": "Sat, 21 Nov 2026 14:00:00 GMT"}, None),
    ],
)
async def test_the_servers_own_delay(
    server: FakeApi, api: Cluster, status: int, body: dict[str, Any], headers: dict[str, str], seconds: float | None
) -> None:
    server.always(status, body, **headers)
    with pytest.raises(Transient) as caught:
        await api.get(kinds.CONFIG_MAP, "team", "one")
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    "body", ["", "<html>Bad gateway</html>", '"text"', "[]", '{"kind":"Other","message":"secret"}']
)
async def test_a_body_from_a_proxy_is_not_quoted(server: FakeApi, api: Cluster, body: str) -> None:
    server.always(502, body)
    with pytest.raises(Transient, match=r"configmaps: the API server answered 502$"):
        await api.list(kinds.CONFIG_MAP, "team")


@pytest.mark.parametrize("body", ["", "not JSON", "[1]"])
async def test_an_answer_that_is_cut_short_or_garbled(server: FakeApi, api: Cluster, body: str) -> None:
    server.always(200, body)
    with pytest.raises(Transient, match="no JSON"):
        await api.get(kinds.CONFIG_MAP, "team", "one")


async def test_a_connection_that_breaks_off(server: FakeApi, api: Cluster) -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    server.answer = drop
    with pytest.raises(Transient, match="PATCH /api/v1/namespaces/team/configmaps/one: "):
        await api.apply(MAP)


async def test_a_server_that_does_not_answer(server: FakeApi, api: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    server.answer = hang
    with pytest.raises(Transient, match="TimeoutError"):
        await api.get(kinds.CONFIG_MAP, "team", "one")
    released.set()


async def test_nobody_listens(tmp_path: Path, unused_tcp_port: int) -> None:
    async with Cluster(kubeconfig=kubeconfig(tmp_path, unused_tcp_port)) as api:
        with pytest.raises(Transient, match="GET /api/v1/namespaces/team/configmaps/one: "):
            await api.get(kinds.CONFIG_MAP, "team", "one")


async def test_a_list_of_nothing_may_be_null(server: FakeApi, api: Cluster) -> None:
    assert await api.list(kinds.DEPLOYMENT) == []
    assert server.requests[0].query == {"limit": "500"}


async def test_a_list_whose_next_page_has_expired(server: FakeApi, api: Cluster) -> None:
    async def pages(request: web.Request) -> web.StreamResponse:
        if "continue" in request.query:
            return web.json_response({"kind": "Status", "reason": "Expired", "message": "too old"}, status=410)
        return web.json_response({"metadata": {"continue": "next"}, "items": [{"metadata": {}}]})

    server.answer = pages
    with pytest.raises(Transient, match="too old"):
        await api.list(kinds.DEPLOYMENT)


async def test_no_more_connections_than_allowed(server: FakeApi, api: Cluster) -> None:
    together: Counter[str] = Counter()

    async def count(_: web.Request) -> web.StreamResponse:
        together["now"] += 1
        together["most"] = max(together["most"], together["now"])
        await asyncio.sleep(0.01)
        together["now"] -= 1
        return web.json_response({"metadata": {}})

    server.answer = count
    await asyncio.gather(*(api.get(kinds.CONFIG_MAP, "team", "one") for _ in range(40)))
    assert together["most"] == 4


async def test_what_is_sent(server: FakeApi, api: Cluster) -> None:
    bodies: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.text())
        return web.json_response({"metadata": {}})

    server.answer = note
    await api.apply({**MAP, "data": {"é": "\U0001f600\x7f"}}, dry_run=True)
    (request,) = server.requests
    assert request.query == {"fieldManager": "vllm-operator", "force": "true", "dryRun": "All"}
    assert request.content_type == "application/apply-patch+yaml"
    assert request.headers["Authorization"] == "Bearer t"
    assert request.headers["User-Agent"] == "vllm-operator"
    assert bodies[0].isascii()
    assert r"\U0001f600\U0000007f" in bodies[0]


@pytest.mark.parametrize("status", [400, 405, 413, 415, 422])
async def test_what_no_retry_helps_is_rejected(server: FakeApi, api: Cluster, status: int) -> None:
    server.always(status, {"message": "wrong"})
    with pytest.raises(Blocked, match=r"^wrong$") as caught:
        await api.apply(MAP)
    assert caught.value.reason == "Rejected"


async def test_a_quota_that_nobody_has_counted_yet_is_transient(server: FakeApi, api: Cluster) -> None:
    server.always(403, {"message": "services is forbidden: status unknown for quota: q, resources: count/services"})
    with pytest.raises(Transient):
        await api.apply(MAP)


@virtual_time
async def test_writes_are_spread_over_time() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    loop = asyncio.get_running_loop()

    async def passed_at() -> float:
        await bucket.take()
        return loop.time()

    start = loop.time()
    times = [at - start for at in await asyncio.gather(*(passed_at() for _ in range(25)))]
    assert times[:5] == [0.0] * 5
    assert times == sorted(times)
    assert times[-1] == pytest.approx(2.0)
    await asyncio.sleep(100)
    later = loop.time()
    again = [at - later for at in await asyncio.gather(*(passed_at() for _ in range(6)))]
    assert again == pytest.approx([0, 0, 0, 0, 0, 0.1])


async def test_a_log_comes_as_text_whatever_bytes_it_holds(server: FakeApi, api: Cluster) -> None:
    async def log(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"loading\n\xff\xfe\x00 not UTF-8\n")

    server.answer = log
    text = await api.pod_log("team", "web-1", "vllm", previous=True, lines=400)
    assert text == "loading\n\ufffd\ufffd\x00 not UTF-8\n"
    (request,) = server.requests
    assert request.path == "/api/v1/namespaces/team/pods/web-1/log"
    expected = {"container": "vllm", "tailLines": "400", "limitBytes": "262144", "previous": "true"}
    assert dict(request.query) == expected
    await api.pod_log("team", "web-1", "vllm", previous=False, lines=10)
    assert "previous" not in server.requests[-1].query


async def test_a_log_that_cannot_be_read(server: FakeApi, api: Cluster) -> None:
    server.always(404, {"message": 'pods "web-1" not found', "details": {"kind": "pods", "name": "web-1"}})
    with pytest.raises(Gone):
        await api.pod_log("team", "web-1", "vllm", previous=True, lines=400)
    server.always(400, {"message": "previous terminated container not found"})
    with pytest.raises(Blocked, match="previous terminated container"):
        await api.pod_log("team", "web-1", "vllm", previous=True, lines=400)
    server.always(500, {"message": "dial tcp: lookup node-1: no such host"})
    with pytest.raises(Transient, match="no such host"):
        await api.pod_log("team", "web-1", "vllm", previous=True, lines=400)


async def test_a_kubelet_that_does_not_answer_is_not_waited_for_long(
    server: FakeApi, api: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    server.answer = never
    assert client._LOG_TIMEOUT.total == 5
    monkeypatch.setattr(client, "_LOG_TIMEOUT", aiohttp.ClientTimeout(total=0.05))
    with pytest.raises(Transient, match="web-1/log"):
        await api.pod_log("team", "web-1", "vllm", previous=True, lines=400)


async def test_kubelets_that_do_not_answer_are_no_api_server_that_is_away(server: FakeApi, api: Cluster) -> None:
    server.always(502, {"message": "dial tcp 10.0.0.7:10250: i/o timeout"})
    for _ in range(20):
        with pytest.raises(Transient, match="i/o timeout"):
            await api.pod_log("team", "web-1", "vllm", previous=False, lines=5)
    server.always(200, '{"metadata": {}, "items": []}')
    assert await api.list(kinds.NODE) == []
    assert len(server.requests) == 21


async def test_events_of_one_pod(server: FakeApi, api: Cluster) -> None:
    server.always(200, {"metadata": {}, "items": [{"reason": "FailedMount"}]})
    assert await api.events_about("team", "u1") == [{"reason": "FailedMount"}]
    assert dict(server.requests[0].query) == {"fieldSelector": "involvedObject.uid=u1", "limit": "100"}
    server.always(200, {"metadata": {}, "items": None})
    assert await api.events_about("team", "u1") == []


@pytest.mark.parametrize(
    ("variable", "uses"), [("HTTPS_PROXY", True), ("http_proxy", True), ("ALL_PROXY", True), ("NO_PROXY", False)]
)
def test_the_environment_is_looked_at_where_it_names_a_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, *, uses: bool
) -> None:
    for name in tuple(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    assert not sockets.uses_proxies()
    monkeypatch.setenv(variable, "proxy.example:3128")
    assert sockets.uses_proxies() == uses
