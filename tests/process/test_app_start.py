"""How the operator starts, or says why it does not, when the API server is not as it should be."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fakeapi import FakeApi, kubeconfig
from vllm_operator.app import process, run
from vllm_operator.config import OperatorConfig
from vllm_operator.errors import UsageError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START_SECONDS", 0.3)
    monkeypatch.setattr(process, "OUTAGE_SECONDS", 0.6)
    monkeypatch.setattr(process, "_START_PAUSE", 0.05)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("", 0)) as listener:
        yield listener.getsockname()[1]


def config(path: str, **fields: Any) -> OperatorConfig:  # noqa: ANN401 - fields of the configuration
    return OperatorConfig(kubeconfig=path, **{"health_port": 0, **fields})


async def test_without_the_crd_it_waits_says_what_to_do_and_ends(
    server: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(404, "404 page not found")
    assert await run(config(server.kubeconfig)) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "the CRD vllmdeployments.vllm-operator.dev is missing" in errors[0]
    assert "crds/vllmdeployments.yaml" in errors[0]
    assert len(server.requests) > 2, "it did not wait"


async def test_without_an_api_server_it_waits_and_ends(
    tmp_path: Path, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert await run(config(kubeconfig(tmp_path, unused_tcp_port))) == 1
    assert "cannot start: GET /apis/vllm-operator.dev/v1alpha1: " in caplog.text


async def test_without_rights_it_says_which(server: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    message = 'nodes is forbidden: User "x" cannot list resource "nodes" in API group "" at the cluster scope'

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/apis/vllm-operator.dev"):
            return web.json_response({"resources": [{"name": "vllmdeployments"}]})
        return web.json_response({"kind": "Status", "message": message}, status=403)

    server.answer = answer
    assert await run(config(server.kubeconfig)) == 1
    assert "cannot start: The operator may not list nodes: grant its service account that verb." in caplog.text


async def test_a_signal_while_it_waits_is_no_failure(server: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START_SECONDS", 60)
    monkeypatch.setattr(process, "_START_PAUSE", 60)
    asked = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        asked.set()
        return web.Response(status=503)

    server.answer = answer
    running = asyncio.create_task(run(config(server.kubeconfig)))
    await asked.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await running == 0


async def test_a_port_that_is_taken_is_one_sentence(server: FakeApi, taken_port: int) -> None:
    with pytest.raises(UsageError, match=rf"^--health-port={taken_port}: cannot listen there: .*\.$"):
        await run(config(server.kubeconfig, health_port=taken_port))


async def test_a_kubeconfig_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot connect with the kubeconfig"):
        await run(config(str(tmp_path / "nowhere")))
