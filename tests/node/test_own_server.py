"""The sample server of examples/own-server, in an image of its own: what docs/own-server.md promises it, and drain."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from images import recipes
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.wait import wait_for
from node.support import events, metrics, processes
from node.support.served import KV_CACHE_BYTES, Served, bare, serve
from node.support.stage import BASE, Stage, offer_models, on_stage
from operator_process import ROOT

pytestmark = pytest.mark.real_node

NAME = "own"
COMMAND = ["uvicorn", "chat_server:app"]
ARGUMENTS = ["--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "60"]  # noqa: S104 - in the pod
ENGINE = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": KV_CACHE_BYTES, "max_num_seqs": 4}
CONTEXT = 2048  # tokens
LONG, SHORT = 1900, 100  # tokens, which are characters; the long answer takes seconds
DOCUMENTED = re.compile(r"^\| (`[A-Z_`, ]+`) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def stage(cluster: ClusterAccess, tiny_model: Path) -> Iterator[Stage]:
    assert isinstance(cluster, Cluster)
    cluster.node.load(recipes.chat_server(), recipes.vllm())
    with on_stage(cluster, "own-server") as made:
        offer_models(made.hub, tiny_model)
        yield made


@pytest.fixture(scope="module")
def served(stage: Stage) -> Served:
    engine = {
        "image": recipes.CHAT_SERVER_NAME,
        "command": COMMAND,
        "extraArgs": ARGUMENTS,
        "env": [
            {"name": "ENGINE_ARGS", "value": json.dumps(ENGINE)},
            {"name": "SERVED_MODEL_NAME", "value": "renamed"},
        ],
    }
    manifest = bare(stage, NAME, engine)
    manifest["spec"]["model"]["maxLength"] = CONTEXT
    # It is asked to end at once, while its stream is still in flight.
    manifest["spec"]["lifecycle"] = {"preStopSeconds": 0, "drainSeconds": 60}
    return serve(stage, manifest)


def question(max_tokens: int) -> dict[str, Any]:
    return {"prompt": "What is a stream?", "max_tokens": max_tokens}


def engine_of(served: Served) -> list[int]:
    """The process that makes tokens: while it is stopped, an answer that has begun goes on for as long as it takes."""
    return processes.of_pod(served.pod["metadata"]["uid"], "VLLM::EngineCore")


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(one["text"] for one in chunks)


def test_it_gets_its_own_command_and_no_flag_of_vllm(served: Served) -> None:
    container = served.container
    assert (container["command"], container["args"]) == (COMMAND, ARGUMENTS)
    assert served.status["engine"]["args"] == ARGUMENTS
    assert container["image"] == recipes.CHAT_SERVER_NAME


def test_it_is_told_what_the_documentation_says(served: Served) -> None:
    environment = dict(line.partition("=")[::2] for line in served.run("env").splitlines())
    told = {
        "MODEL": BASE,
        "MODEL_REVISION": served.status["model"]["commit"],
        "SERVED_MODEL_NAME": "renamed",  # engine.env says otherwise
        "MAX_MODEL_LEN": str(CONTEXT),
        "TENSOR_PARALLEL_SIZE": "1",
        "PIPELINE_PARALLEL_SIZE": "1",
        "GPU_MEMORY_UTILIZATION": None,
        "PORT": "8000",
    }
    assert {name: environment.get(name) for name in told} == told
    assert (environment["HF_HUB_OFFLINE"], environment["HF_HOME"]) == ("1", "/models")
    rows = DOCUMENTED.findall((ROOT / "docs" / "own-server.md").read_text())
    assert {name for row in rows for name in re.findall(r"\w+", row)} == told.keys()


def test_it_may_write_where_the_documentation_says(served: Served) -> None:
    said = served.run("sh", "-c", 'touch /tmp/x "$HOME/x" "$VLLM_CACHE_ROOT/x" && id -u; touch /srv/x', check=False)
    assert said.splitlines()[0] == "1000"
    assert "Read-only file system" in said.splitlines()[1]


def test_its_probes_and_metrics_are_used_as_those_of_vllm(served: Served) -> None:
    (container,) = served.pod["status"]["containerStatuses"]
    assert (container["ready"], container["restartCount"]) == (True, 0)
    assert served.container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert httpx.get(f"{served.url}/health").status_code == 200
    assert httpx.post(f"{served.url}/v1/chat/completions", json={}).status_code == 404, "vLLM's own server answers"
    assert metrics.labels(served.url, "vllm:num_requests_running")["model_name"] == "renamed"
    assert int(metrics.labels(served.url, "vllm:cache_config_info")["kv_cache_size_tokens"]) > CONTEXT


def test_events_come_while_the_answer_is_made(served: Served) -> None:
    engine = engine_of(served)
    with events.posted(f"{served.url}/ask", question(LONG)) as stream:
        first = json.loads(next(stream))
        with processes.paused(engine):
            assert metrics.total(served.url, "vllm:num_requests_running") == 1, "the whole answer was made first"
    assert first["text"]
    wait_for(
        lambda: metrics.total(served.url, "vllm:num_requests_running") == 0,
        120,
        "a client that goes away ends its request",
    )


def test_a_stream_in_flight_is_finished_when_its_server_ends(served: Served) -> None:
    undisturbed = events.chunks(f"{served.url}/ask", question(SHORT))
    pod = served.pod["metadata"]["name"]
    follow, waits = ("logs", "--follow", "--tail=5", pod), "Waiting for connections to close"
    with ThreadPoolExecutor(1) as background, ExitStack() as stack:
        log = background.submit(served.kubectl, *follow, timeout=120)
        # Before the question is asked: on a busy machine the whole answer can be made before anybody reads of it.
        with processes.paused(engine_of(served)):
            stream = stack.enter_context(events.posted(f"{served.url}/ask", question(LONG)))
            served.kubectl("patch", "vllmdeployment", NAME, "--type=merge", '--patch={"spec":{"replicas":0}}')
            wait_for(lambda: waits in served.kubectl("logs", "--tail=50", pod).stdout, 60, "it is asked to end")
        *chunks, last = stream
        said = log.result().stdout
    assert last == events.DONE
    found = [json.loads(one) for one in chunks]
    assert found[-1]["finish_reason"] == "length"
    assert len(text_of(found)) == LONG
    assert text_of(found).startswith(text_of(undisturbed))
    assert "Finished server process" in said, f"it did not end by itself:\n{said}"
    assert wait_for(lambda: not served.kubectl.items("pods", f"--field-selector=metadata.name={pod}"), 60, "pod gone")
