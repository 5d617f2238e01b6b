"""Metrics of servers are read beside the passes, once, and reach the status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from vllm_operator import gauge, kinds
from vllm_operator.gauge import Gauge
from vllm_operator.naming import Key, labels
from world import EPHEMERAL, KEY, Object, World

OTHER = Key("team", "other")
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
    await web.TCPSite(runner, "0.0.0.0", 0).start()  # noqa: S104 - on all addresses of this machine's own
    monkeypatch.setattr(gauge, "PORT", runner.addresses[0][1])
    monkeypatch.setattr(gauge, "_PAUSE", 0.01)
    yield found
    await runner.cleanup()


class Reader(Gauge):
    """A gauge that writes down what it finds, and waits for it."""

    def __init__(self) -> None:
        super().__init__(lambda key, page: self.pages.append((key, page)))
        self.pages: list[tuple[Key, str]] = []

    async def until(self, done: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not done():  # noqa: ASYNC110 - a line of the log tells nobody
                await asyncio.sleep(0.001)


@pytest.fixture
async def reader(server: Server) -> AsyncIterator[Reader]:
    assert server.asked == 0  # which is there before the reader
    found = Reader()
    yield found
    await found.close()


@pytest.fixture
def given_up(caplog: pytest.LogCaptureFixture) -> Callable[[], bool]:
    """Whether the gauge has said that there is nothing to be read."""
    caplog.set_level(logging.DEBUG, gauge.__name__)
    return lambda: "cannot be read" in caplog.text


async def test_a_page_is_read_once(server: Server, reader: Reader) -> None:
    reader.ask(KEY, "127.0.0.1")
    await reader.until(lambda: reader.pages)
    reader.ask(KEY, "127.0.0.1")
    reader.ask(OTHER, "127.0.0.1")
    await reader.until(lambda: len(reader.pages) > 1)
    assert reader.pages == [(KEY, PAGE), (OTHER, PAGE)]
    assert server.asked == 2


async def test_a_server_that_is_not_there_yet_is_asked_again(server: Server, reader: Reader) -> None:
    server.fails = 2
    reader.ask(KEY, "127.0.0.1")
    await reader.until(lambda: reader.pages)
    assert server.asked == 3


async def test_a_server_that_never_answers_is_left_alone(
    server: Server, reader: Reader, given_up: Callable[[], bool]
) -> None:
    server.fails = 3
    reader.ask(KEY, "127.0.0.1")
    await reader.until(given_up)
    reader.ask(KEY, "127.0.0.1")
    reader.ask(OTHER, "127.0.0.1")
    await reader.until(lambda: reader.pages)
    assert reader.pages == [(OTHER, PAGE)]
    assert server.asked == 4


async def test_another_server_of_the_same_name_is_asked_as_often(
    server: Server, reader: Reader, given_up: Callable[[], bool]
) -> None:
    server.fails = 5
    reader.ask(KEY, "127.0.0.1")
    await reader.until(given_up)
    reader.ask(KEY, "127.0.0.2")
    await reader.until(lambda: reader.pages)
    assert server.asked == 6


async def test_a_resource_that_is_gone_is_asked_no_more(server: Server, reader: Reader) -> None:
    server.fails = 1
    reader.ask(KEY, "127.0.0.1")
    await reader.until(server.first_ask.is_set)
    reader.forget(KEY)
    reader.ask(OTHER, "127.0.0.1")
    await reader.until(lambda: reader.pages)
    assert reader.pages == [(OTHER, PAGE)]


async def test_a_pod_cannot_send_us_elsewhere(server: Server, reader: Reader, given_up: Callable[[], bool]) -> None:
    server.elsewhere = "/elsewhere"
    reader.ask(KEY, "127.0.0.1")
    await reader.until(given_up)
    assert reader.pages == []
    assert server.asked == 3


async def test_a_pod_cannot_fill_our_memory(
    server: Server, reader: Reader, given_up: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauge, "_MOST_BYTES", 2**18)
    server.page = PAGE + "#" * 2**18
    reader.ask(KEY, "127.0.0.1")
    await reader.until(given_up)
    assert reader.pages == []


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
