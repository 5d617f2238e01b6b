"""Metrics of servers are read beside the passes, once, and reach the status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from vllm_operator import gauge, kinds
from vllm_operator.gauge import Gauge
from vllm_operator.naming import Key, labels
from world import EPHEMERAL, KEY, Object, World

PAGE = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000",kv_cache_size_tokens="16000"} 1.0\n'


class Server:
    """A server on this machine that says how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.first_ask = asyncio.Event()
        self.page = PAGE
        self.elsewhere = ""
        self.fails = 0

    async def handle(self, _: web.Request) -> web.StreamResponse:
        self.asked += 1
        self.first_ask.set()
        if self.elsewhere:
            raise web.HTTPFound(self.elsewhere)
        return web.Response(status=503) if self.asked <= self.fails else web.Response(text=self.page)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_get("/metrics", found.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setattr(gauge, "PORT", runner.addresses[0][1])
    monkeypatch.setattr(gauge, "_PAUSE", 0.01)
    yield found
    await runner.cleanup()


async def ask(*addresses: str) -> list[tuple[Key, str]]:
    """What a gauge finds at addresses, asked one after the other."""
    pages: list[tuple[Key, str]] = []
    reader = Gauge(lambda key, page: pages.append((key, page)))
    for address in addresses:
        reader.ask(KEY, address)
        async with asyncio.timeout(10):
            await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == f"metrics of {KEY}"))
    await reader.close()
    return pages


async def test_a_page_is_read_once(server: Server) -> None:
    assert await ask("127.0.0.1", "127.0.0.1") == [(KEY, PAGE)]
    assert server.asked == 1


async def test_a_server_that_is_not_there_yet_is_asked_again(server: Server) -> None:
    server.fails = 2
    assert await ask("127.0.0.1") == [(KEY, PAGE)]
    assert server.asked == 3


async def test_a_server_that_never_answers_is_left_alone(server: Server) -> None:
    server.fails = 99
    assert await ask("127.0.0.1", "127.0.0.1") == []
    assert server.asked == 12


async def test_a_pod_cannot_send_us_elsewhere(server: Server) -> None:
    server.elsewhere = "/elsewhere"
    assert await ask("127.0.0.1") == []
    assert server.asked == 12


async def test_a_pod_cannot_fill_our_memory(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauge, "_MOST_BYTES", 2**18)
    server.page = PAGE + "#" * 2**18
    assert await ask("127.0.0.1") == []


async def test_an_end_waits_for_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauge, "_PAUSE", 3600)
    server.fails = 1
    reader = Gauge(lambda *_: None)
    reader.ask(KEY, "127.0.0.1")
    async with asyncio.timeout(10):
        await server.first_ask.wait()
        await reader.close()


async def with_a_server() -> World:
    """A world with a server that is ready, of which the next pass learns."""
    world = World(**EPHEMERAL)
    await world.reconcile()
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    world.happen(kinds.DEPLOYMENT, "chat", status=status)
    pod = {
        "metadata": {"labels": labels("chat", "server"), "annotations": {"vllm-operator.dev/resource": "chat"}},
        "status": {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    world.listener.pod_seen("MODIFIED", world.api.store("Pod", "chat-1", pod))
    return world


async def test_what_a_server_says_reaches_the_status(server: Server) -> None:
    world = await with_a_server()
    await world.reconcile()
    async with asyncio.timeout(10):
        while "measured" not in world.status["sizing"]:
            await world.reconcile()
            await asyncio.sleep(0.01)
    assert world.status["sizing"]["measured"]["kvTokens"] == 16000
    assert await world.reconcile() == []
    assert server.asked == 1
    await world.reconciler.close()


async def test_a_page_that_comes_at_the_end_of_a_pass_is_left_for_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, came = await with_a_server(), asyncio.Event()
    monkeypatch.setattr(world, "add", lambda _: came.set())
    apply_status = world.api.apply_status

    async def late(namespace: str, name: str, status: Object) -> Object:
        await asyncio.wait_for(came.wait(), 10)
        return await apply_status(namespace, name, status)

    monkeypatch.setattr(world.api, "apply_status", late)
    assert "status" in await world.reconcile()
    assert "measured" not in world.status["sizing"]
    await world.reconcile()
    assert world.status["sizing"]["measured"]["kvTokens"] == 16000
    assert server.asked == 1
    await world.reconciler.close()
