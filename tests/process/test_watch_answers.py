"""What an API server may answer to a list or a watch that works the next time, or never again."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
from aiohttp import web

from fakeapi import FakeApi
from vllm_operator import kinds, pacing, watch
from vllm_operator.api import API_VERSION, GROUP, KIND
from vllm_operator.cluster import Cluster
from vllm_operator.kinds import Kind
from vllm_operator.scope import Scope

Body = Mapping[str, Any]
PATIENCE_SECONDS = 0.6


def _described(plural: str, kind: str) -> Body:
    verbs = ["list", "watch", "get", "patch"]
    return {"name": plural, "singularName": "", "kind": kind, "namespaced": not kind.startswith("N"), "verbs": verbs}


_VERSION = {"groupVersion": API_VERSION, "version": API_VERSION.partition("/")[2]}
_CORE = {"services": "Service", "pods": "Pod", "nodes": "Node", "namespaces": "Namespace"}
_DISCOVERY: Mapping[str, Body] = {
    "/api": {"versions": ["v1"]},
    "/apis": {"groups": [{"name": GROUP, "versions": [_VERSION], "preferredVersion": _VERSION}]},
    "/api/v1": {"resources": [_described(*one) for one in _CORE.items()]},
    f"/apis/{API_VERSION}": {"resources": [_described("vllmdeployments", KIND)]},
}


@pytest.fixture(autouse=True)
def _haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short here."""
    monkeypatch.setattr(pacing, "_ERROR_DELAYS", (0.02, 0.1))
    monkeypatch.setattr(pacing, "_WATCH_SECONDS", 0.02)
    monkeypatch.setattr(watch, "_END_ROUND_SECONDS", 0.2)


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ten minutes. Where the watch is to survive that would be too short for a busy machine."""
    monkeypatch.setattr(pacing, "_PATIENCE_SECONDS", PATIENCE_SECONDS)


class Diary:
    """Notes the names of the services that it is told of."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def child_seen(self, _: Kind, event: str | None, body: Body) -> None:
        self.seen.append(f"{event} {body['metadata']['name']}")

    def resource_seen(self, event: str | None, body: Body) -> None: ...

    def pod_seen(self, event: str | None, body: Body) -> None: ...

    def node_seen(self, event: str | None, body: Body) -> None: ...

    def all_listed(self) -> None: ...


class Services:
    """An API server with nothing in it. Lists and watches of services are answered as a test says, one by one.

    When there is no more to say, a list is empty, and a watch goes on in silence.
    """

    def __init__(self, lists: Iterable[Any] = (), watches: Iterable[Any] = ()) -> None:
        self._lists, self._watches = iter(lists), iter(watches)
        self.asked: list[tuple[str, Mapping[str, str], float]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path in _DISCOVERY:
            return web.json_response(_DISCOVERY[request.path])
        plural, query = request.path.rpartition("/")[2], dict(request.query)
        self.asked.append((plural, query, asyncio.get_running_loop().time()))
        if "watch" in query:
            return await self._watch(request, plural)
        said = next(self._lists, None) if plural == "services" else None
        return said or _page()

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        said = next(self._watches, None) if plural == "services" else None
        if isinstance(said, web.Response):
            return said
        stream = web.StreamResponse()
        await stream.prepare(request)
        for chunk in said or ():
            await stream.write(chunk)
            await asyncio.sleep(0.01)
        if said is None:
            await asyncio.sleep(60)
        return stream

    def queries(self, plural: str = "services", *, watches: bool) -> list[Mapping[str, str]]:
        return [query for one, query, _ in self.asked if one == plural and ("watch" in query) == watches]

    def times(self) -> list[float]:
        return [at for plural, query, at in self.asked if plural == "services" and "watch" in query]


def _page(*names: str, more: str = "") -> web.Response:
    items = [{"metadata": {"name": name, "namespace": "a"}} for name in names]
    return web.json_response({"metadata": {"resourceVersion": "5", "continue": more}, "items": items})


def _refusal(code: int) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": "on purpose"}, status=code)


def _line(event: str, body: Body) -> bytes:
    return json.dumps({"type": event, "object": body}, separators=(",", ":")).encode() + b"\n"


def _error(code: int) -> bytes:
    return _line("ERROR", {"kind": "Status", "code": code, "message": "etcdserver: no leader"})


def _added(name: str) -> bytes:
    return _line("ADDED", {"metadata": {"name": name, "namespace": "a", "resourceVersion": "6"}})


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for is told by nobody
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(server: FakeApi, services: Services) -> AsyncIterator[tuple[Diary, asyncio.Task[None]]]:
    """A watch of resources, nodes, pods and services, which ends with the block if it has not before."""
    server.answer = services.answer
    diary, stop, ready = Diary(), asyncio.Event(), asyncio.Event()
    async with Cluster(kubeconfig=server.kubeconfig) as cluster:
        scope = Scope(children=(kinds.SERVICE,))
        running = asyncio.create_task(watch.watch(diary, cluster, scope, stop, ready))
        try:
            yield diary, running
        finally:
            stop.set()
            await asyncio.wait([running])


@pytest.mark.parametrize("code", [410, 429, 500, 504])
async def test_after_an_error_in_a_watch_all_is_listed_and_watched_anew(server: FakeApi, code: int) -> None:
    services = Services(
        lists=[_page("one"), _page("one", "two"), _page("one", "two")],
        watches=[[_error(code)], [_error(code)], [_added("three")]],
    )
    async with watching(server, services) as (diary, running):
        await _until(lambda: "ADDED three" in diary.seen)
        assert not running.done()
    assert diary.seen[:5] == ["None one", "None one", "None two", "None one", "None two"]
    assert len(services.queries("pods", watches=True)) == len(services.queries("nodes", watches=False)) == 1


@pytest.mark.parametrize("at", [1, 10, -1])
async def test_an_error_that_comes_in_pieces_and_after_events(server: FakeApi, at: int) -> None:
    said = _added("one") + _error(500)
    head = len(said) - len(_error(500))
    pieces = [said[: head + at], said[head + at :]] if at > 0 else [said[:at]]  # the last has no end of its line
    services = Services(watches=[pieces, [_added("two")]])
    async with watching(server, services) as (diary, _):
        await _until(lambda: "ADDED two" in diary.seen)
    assert diary.seen == ["ADDED one", "ADDED two"]
    assert len(services.queries(watches=False)) == 2


@pytest.mark.usefixtures("impatience")
async def test_errors_that_stay_end_the_watch_loudly_and_cost_few_requests(server: FakeApi) -> None:
    services = Services(watches=iter(lambda: [_error(500)], None))
    async with watching(server, services) as (_, running):
        async with asyncio.timeout(10):
            await asyncio.wait([running])
        with pytest.raises(Exception, match=r"Error in the watch-stream: .*no leader"):
            await running
    times = services.times()
    assert times[-1] - times[0] >= PATIENCE_SECONDS
    assert all(later - earlier >= 0.07 for earlier, later in list(itertools.pairwise(times))[2:])
    assert len(services.queries(watches=False)) == len(times)


@pytest.mark.usefixtures("impatience")
@pytest.mark.parametrize("between", [[_added("one"), _error(500)], []], ids=["an event", "a watch that ends well"])
async def test_patience_is_for_errors_in_a_row(server: FakeApi, between: list[bytes]) -> None:
    services = Services(watches=[[_error(500)], between] * 100)
    async with watching(server, services) as (_, running):
        await _until(lambda: services.asked and services.asked[-1][2] - services.asked[0][2] > 2 * PATIENCE_SECONDS)
        assert not running.done()


async def test_a_list_that_cannot_be_continued_is_asked_for_as_a_whole(server: FakeApi) -> None:
    services = Services(lists=[_page("one", more="abc"), _refusal(410), _page("one", "two")])
    async with watching(server, services) as (diary, running):
        await _until(lambda: services.queries(watches=True))
        assert not running.done()
    first, second, whole = services.queries(watches=False)
    assert (first["limit"], second["continue"]) == ("50", "abc")
    assert whole.keys() == {"labelSelector"}
    assert diary.seen == ["None one", "None one", "None two"]


@pytest.mark.usefixtures("impatience")
async def test_lists_that_can_never_be_continued_end_it_loudly_and_cost_few_requests(server: FakeApi) -> None:
    services = Services(lists=(_refusal(410) if turn % 2 else _page("one", more="abc") for turn in itertools.count()))
    async with watching(server, services) as (_, running):
        async with asyncio.timeout(10):
            await asyncio.wait([running])
        with pytest.raises(Exception, match="on purpose"):
            await running
    assert 4 < len(services.queries(watches=False)) <= 2 * (PATIENCE_SECONDS / 0.075 + 3)


async def test_a_watch_from_what_is_no_longer_known_begins_with_what_there_is(server: FakeApi) -> None:
    services = Services(watches=[_refusal(410), [_added("one")]])
    async with watching(server, services) as (diary, _):
        await _until(lambda: diary.seen == ["ADDED one"])
    first, second, *_ = services.queries(watches=True)
    assert first.items() - second.items() == {("resourceVersion", "5")}


@pytest.mark.parametrize("code", [408, 410, 503])
async def test_a_request_that_fails_is_tried_again(server: FakeApi, code: int) -> None:
    services = Services(lists=[_refusal(code), _refusal(code), _refusal(code), _page("one")])
    async with watching(server, services) as (diary, running):
        await _until(lambda: diary.seen == ["None one"])
        assert not running.done()


@pytest.mark.usefixtures("impatience")
@pytest.mark.parametrize("code", [408, 410, 503])
async def test_a_request_that_fails_is_not_tried_for_ever(server: FakeApi, code: int) -> None:
    services = Services(lists=iter(lambda: _refusal(code), None))
    async with watching(server, services) as (_, running):
        async with asyncio.timeout(10):
            await asyncio.wait([running])
        with pytest.raises(Exception, match="on purpose"):
            await running
    assert len(services.queries(watches=False)) <= 2 * (PATIENCE_SECONDS / 0.075 + 3)


async def test_a_kind_that_is_not_there_any_more_ends_it_at_once(server: FakeApi) -> None:
    services = Services(lists=[_page(), _refusal(404)], watches=[[_error(404)]])
    async with watching(server, services) as (_, running):
        async with asyncio.timeout(10):
            await asyncio.wait([running])
        with pytest.raises(Exception, match="on purpose"):
            await running
    assert len(services.queries(watches=False)) == 2


async def test_generators_of_kopf_that_the_loop_closes_in_its_own_order_are_no_error(
    server: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a process is asked to end in the midst of events, once in hundreds of times: a traceback for nothing."""
    loop = asyncio.get_running_loop()
    failure = {"message": "an error occurred during closing of asynchronous generator", "exception": RuntimeError()}
    async with watching(server, Services()):
        await _until(lambda: server.requests)
    caplog.clear()
    loop.call_exception_handler({**failure, "asyncgen": SimpleNamespace(ag_code=kopf.spawn_tasks.__code__)})
    assert caplog.records == []
    loop.call_exception_handler({**failure, "asyncgen": SimpleNamespace(ag_code=_until.__code__)})
    loop.call_exception_handler({"message": "a task failed", "exception": RuntimeError()})
    assert len(caplog.records) == 2
