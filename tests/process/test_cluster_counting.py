"""What the client of the API server tells whoever counts: each request that was sent, once, and how it ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from fakeapi import FakeApi, kubeconfig
from vllm_operator import kinds
from vllm_operator.cluster import Author, Cluster
from vllm_operator.errors import NotLeading, Transient

Call = tuple[str, str, str]
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "namespace": "team"}}


@contextlib.asynccontextmanager
async def counting(path: str, left: float = 60.0) -> AsyncIterator[tuple[Cluster, list[Call]]]:
    """A client whose author has so many seconds left, and what it tells."""
    calls: list[Call] = []

    def count(verb: str, resource: str, code: str, seconds: float) -> None:
        assert 0 <= seconds < 60
        calls.append((verb, resource, code))

    async with Cluster(kubeconfig=path, author=Author("pod_1", lambda: left)) as api:
        api.on_call = count
        yield api, calls


async def test_answers_are_told_by_their_code(server: FakeApi) -> None:
    async with counting(server.kubeconfig) as (api, calls):
        await api.list(kinds.NODE)
        await api.apply(CONFIG_MAP)
        server.always(404, {})
        assert await api.get(kinds.CONFIG_MAP, "team", "one") is None
        server.always(503, {})
        with pytest.raises(Transient):
            await api.delete(kinds.CONFIG_MAP, "team", "one", "uid")
    assert calls == [
        ("list", "nodes", "200"),
        ("patch", "configmaps", "200"),
        ("get", "configmaps", "404"),
        ("delete", "configmaps", "503"),
    ]


async def test_no_answer_is_an_error(tmp_path: Path, unused_tcp_port: int) -> None:
    async with counting(kubeconfig(tmp_path, unused_tcp_port)) as (api, calls):
        with pytest.raises(Transient):
            await api.list(kinds.NODE)
    assert calls == [("list", "nodes", "error")]


async def test_so_is_one_that_nobody_waited_for(server: FakeApi) -> None:
    asked = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.sleep(60)
        raise AssertionError

    server.answer = never
    async with counting(server.kubeconfig) as (api, calls):
        waiting = asyncio.create_task(api.list(kinds.NODE))
        await asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert calls == [("list", "nodes", "error")]


async def test_a_second_attempt_with_fresh_credentials_is_a_second_request(server: FakeApi) -> None:
    server.always(401, {})
    async with counting(server.kubeconfig) as (api, calls):
        with pytest.raises(Transient):
            await api.list(kinds.NODE)
    assert calls == [("list", "nodes", "401")] * 2


async def test_what_was_not_sent_is_not_counted(server: FakeApi) -> None:
    async with counting(server.kubeconfig, left=0.0) as (api, calls):
        with pytest.raises(NotLeading):
            await api.apply(CONFIG_MAP)
    assert calls == []
    assert server.requests == []
