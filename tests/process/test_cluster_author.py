"""Whose time to write has run out, writes nothing more, and leaves nothing under way."""

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fakeapi import FakeApi, kubeconfig
from vllm_operator import kinds
from vllm_operator.cluster import Author, Cluster, LeaseStore
from vllm_operator.errors import Conflict, NotLeading, Transient
from vllm_operator.lease import Record

MAP: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "one", "namespace": "team"},
    "spec": {},
}
WRITES: dict[str, Callable[[Cluster], Awaitable[object]]] = {
    "apply": lambda api: api.apply(MAP),
    "apply_alone": lambda api: api.apply_alone(MAP),
    "apply_status": lambda api: api.apply_status("team", "one", {}),
    "delete": lambda api: api.delete(kinds.CONFIG_MAP, "team", "one", "uid"),
    "create": lambda api: api.create(MAP),
    "replace": lambda api: api.replace(MAP),
    "create_event": lambda api: api.create_event("team", {}),
    "patch_event": lambda api: api.patch_event("team", "one", {}),
}


class Clock:
    """Seconds that are left to write."""

    left = math.inf


@pytest.fixture
async def api(server: FakeApi) -> AsyncIterator[Cluster]:
    async with Cluster(kubeconfig=server.kubeconfig, author=Author("pod_1", lambda: Clock.left)) as api:
        yield api


@pytest.fixture(autouse=True)
def _for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "left", math.inf)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_when_time_has_run_out_nothing_is_sent(
    server: FakeApi, api: Cluster, write: Callable[[Cluster], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "left", 0.0)
    with pytest.raises(NotLeading, match="was not sent: another operator may lead by now"):
        await write(api)
    assert server.requests == []


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_time_that_runs_out_at_the_last_moment_is_noticed(
    server: FakeApi, write: Callable[[Cluster], Awaitable[object]]
) -> None:
    """As when a process is stopped after it began to send, and before the first byte went out."""
    left = chain([5.0], repeat(0.0))
    async with Cluster(kubeconfig=server.kubeconfig, author=Author("pod_1", lambda: next(left))) as api:
        with pytest.raises(Transient):
            await write(api)
    assert server.requests == []


def test_every_method_that_writes_is_known_here() -> None:
    reads = {"connection", "serves", "get", "get_metadata", "list", "each", "names", "pod_log", "events_about"}
    methods = {name for name, one in vars(Cluster).items() if callable(one) and not name.startswith("_")}
    assert methods == reads | WRITES.keys()


async def test_reading_needs_no_lease(server: FakeApi, api: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "left", 0.0)
    assert await api.list(kinds.POD) == []
    assert len(server.requests) == 1


async def test_no_write_outlasts_the_lease(server: FakeApi, api: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.answer = never
    monkeypatch.setattr(Clock, "left", 0.2)
    began = time.monotonic()
    with pytest.raises(Transient):
        await api.apply(MAP)
    assert time.monotonic() - began < 15, "it was the time for any request instead"


async def test_a_second_attempt_with_fresh_credentials_is_judged_anew(
    server: FakeApi, api: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        monkeypatch.setattr(Clock, "left", -1.0)
        return web.Response(status=401)

    server.answer = refuse
    with pytest.raises(NotLeading):
        await api.apply(MAP)
    assert len(server.requests) == 1


async def test_the_api_server_is_told_who_writes(server: FakeApi, api: Cluster) -> None:
    server.always(200, {"metadata": {}})
    await api.apply(MAP)
    assert server.requests[0].headers["User-Agent"] == "vllm-operator/pod_1"


def _drain(listener: socket.socket, given_up: threading.Event, received: list[int]) -> None:
    """Accept a connection, and read it only once its other end has given up."""
    connection, _ = listener.accept()
    given_up.wait(20)
    with connection, contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(1 << 20):
            received.append(len(chunk))


async def test_what_was_given_up_does_not_arrive_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would go on sending what is left in its buffer after the socket is closed."""
    given_up, received, size = threading.Event(), list[int](), 1_000_000
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        reading = asyncio.create_task(asyncio.to_thread(_drain, listener, given_up, received))
        path = kubeconfig(tmp_path, listener.getsockname()[1])
        async with Cluster(kubeconfig=path, author=Author("pod_1", lambda: Clock.left)) as api:
            monkeypatch.setattr(Clock, "left", 0.3)
            with pytest.raises(Transient):
                await api.apply({**MAP, "data": {"large": "x" * size}})
        given_up.set()
        await reading
    assert sum(received) < size


LEASE = {"holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": 2, "strategy": "OldestEmulationVersion"}


async def test_a_lease_keeps_what_others_wrote_into_it(server: FakeApi, api: Cluster) -> None:
    metadata = {"name": "op", "namespace": "sys", "resourceVersion": "7", "labels": {"a": "b"}}
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": LEASE}
    sent: list[Any] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            sent.append(await request.json())
        return web.json_response(body)

    server.answer = answer
    store = LeaseStore(api, "sys", "op")
    found = await store.get()
    assert found == Record("a", 15, 2, version="7")
    await store.replace(Record("b", 15, 3, acquired="x", renewed="y", version="7"))
    assert sent[0]["metadata"] == metadata
    assert sent[0]["spec"] == {
        **LEASE,
        "holderIdentity": "b",
        "leaseTransitions": 3,
        "acquireTime": "x",
        "renewTime": "y",
    }
    assert server.requests[1].path == "/apis/coordination.k8s.io/v1/namespaces/sys/leases/op"


async def test_a_lease_that_is_not_there_is_made(server: FakeApi, api: Cluster) -> None:
    server.always(404, {"details": {"name": "op"}})
    store = LeaseStore(api, "sys", "op")
    assert await store.get() is None
    server.always(409, {"message": "exists"})
    with pytest.raises(Conflict):
        await store.create(Record("b", 15))
    assert (server.requests[1].method, server.requests[1].path) == (
        "POST",
        "/apis/coordination.k8s.io/v1/namespaces/sys/leases",
    )
