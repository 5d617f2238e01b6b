"""How a model comes to its servers: fetched once, resumed after a kill, shared, from a claim, or by the server itself.

Three servers, or four, run vLLM, each with the model that came another way, and must give the same answer.
"""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.support.api import Api
from cluster.support.service import Service
from hub import Fault, Hub
from images import models
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.wait import wait_for
from node.support import processes
from node.support.broken import WHOLE
from node.support.specs import own, resource, spec
from node.support.stage import Stage, on_stage
from node.support.stories import PATIENCE_SECONDS
from node.support.workloads import claim
from vllm_operator import kinds

pytestmark = pytest.mark.real_node

RIDER = "rider.model"
"""A large file that comes with the model, so that its download has a middle."""
RIDER_BYTES, RATE = 2**28, 2**22


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository: the tiny model and the large file."""
    made = models.tiny_llama(tmp_path_factory.mktemp("whole"))
    with (made / RIDER).open("wb") as stream:
        stream.truncate(RIDER_BYTES)
    return made


@pytest.fixture(scope="module")
def stage(cluster: ClusterAccess, folder: Path) -> Iterator[Stage]:
    assert isinstance(cluster, Cluster)
    with on_stage(cluster, "preload") as stage:
        stage.hub.add(WHOLE, folder)
        yield stage


@pytest.fixture(scope="module")
def api(cluster: ClusterAccess) -> Api:
    return Api(cluster.kubeconfig)


@pytest.fixture(scope="module")
def servers(stage: Stage, api: Api, folder: Path) -> Mapping[str, Service]:
    """Servers that begin at once: each gets the model in another way, the one called `killed` at a slow pace."""
    stage.hub.fault(Fault(f"GET .*name={RIDER}", rate=RATE))
    stage.kubectl.apply(claim("models", mode="ReadWriteMany"))
    stage.cluster.fill_claim(stage.kubectl, "models", team_folder(folder))
    caches: dict[str, dict[str, Any]] = {
        "killed": {"cache": {"size": "2Gi"}},
        "from-claim": {"cache": None, "model": {"source": "pvc://models/team/whole"}},
        "without-preload": {"cache": {"preload": False, "accessMode": "ReadWriteOnce"}},
    }
    for name, patch in caches.items():
        api.create(resource(name, spec(stage.hub.endpoint, patch)), stage.namespace)
    return {name: Service(api, stage.namespace, name) for name in caches}


def team_folder(whole: Path) -> Path:
    """Return a folder that holds the tiny model as team/whole."""
    models.tiny_llama(whole.parent / "claim" / "team" / "whole")
    return whole.parent / "claim"


@pytest.fixture(scope="module")
def killed(stage: Stage, servers: Mapping[str, Service]) -> Service:
    """The server whose preload is killed in the middle; it is over when the model is in the cache."""
    service = servers["killed"]
    wait_for(lambda: progress(service), PATIENCE_SECONDS, "the status says how much is there", 0.2)
    (victim,) = wait_for(lambda: fetching(service), message="the process that fetches")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{victim}").exists(), message="it is gone")
    stage.hub.faults.clear()
    service.wait("CacheReady", "True", "Preloaded", PATIENCE_SECONDS)
    return service


def progress(service: Service) -> int:
    """Return how many percent of the download the status speaks of, 0 at its beginning."""
    found = re.fullmatch(
        r"0\.\d of 0\.3 GiB are downloaded \((\d+) %\)", service.condition("CacheReady").get("message", "")
    )
    return int(found[1]) if found else 0


def fetching(service: Service) -> list[int]:
    """Return the processes of the preload Job's pod that fetch, as this machine numbers them."""
    uids = [pod["metadata"]["uid"] for pod in service.pods("preload")]
    return [process for uid in uids for process in processes.of_pod(uid, "fetch")]


def answer(service: Service) -> str:
    """Wait until it is Ready, and return what it says to a question."""
    service.wait_ready(timeout=PATIENCE_SECONDS)
    found = service.child(kinds.SERVICE)
    assert found
    question = {"role": "user", "content": "What is a cache?"}
    body = {"model": "whole", "temperature": 0, "max_tokens": 32, "messages": [question]}
    url = f"http://{found['spec']['clusterIP']}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
        content: str = json.load(reply)["choices"][0]["message"]["content"]
    assert len(content) == 32
    return content


def test_a_killed_preload_goes_on_where_it_was(stage: Stage, killed: Service) -> None:
    asked = stage.hub.requests(f"name={RIDER}")
    content = [one for one in asked if one.path.startswith("/content/")]
    *_, resumed = [one for one in content if one.status == 206]  # the other servers fetch it as well, and whole
    assert any(0 < one.sent < RIDER_BYTES for one in content[: content.index(resumed)])
    assert resumed.first > 0
    assert resumed.first + resumed.sent == RIDER_BYTES
    # Servers follow before the Job itself says that it is done.
    (ended,) = wait_for(
        lambda: [one["status"] for one in killed.jobs() if "succeeded" in one["status"]], message="done"
    )
    assert (ended["failed"], ended["succeeded"]) == (1, 1)


def test_another_resource_on_the_same_claim_downloads_nothing(stage: Stage, killed: Service) -> None:
    shared = {"cache": {"claimName": f"{killed.name}-cache", "size": "auto", "reclaimPolicy": "Retain"}}
    with Hub(stage.cluster.node.network.host) as hub:
        hub.repositories = stage.hub.repositories
        killed.api.create(resource("second", own(hub.endpoint, shared)), stage.namespace)
        Service(killed.api, stage.namespace, "second").wait_ready(timeout=PATIENCE_SECONDS)
        assert hub.requests("/api/models/")
        assert not hub.requests("/content/")
        (config,) = hub.requests("/resolve/")  # read by the Job that looks at the model
        assert config.path.endswith("/config.json")


@pytest.mark.parametrize("name", ["from-claim", "without-preload"])
def test_the_answer_is_the_same_whichever_way_the_model_came(
    servers: Mapping[str, Service], killed: Service, name: str
) -> None:
    assert answer(servers[name]) == answer(killed)


@pytest.mark.long
def test_the_answer_is_the_same_with_a_cache_that_is_not_kept(stage: Stage, killed: Service) -> None:
    patch = {"cache": {"size": None, "reclaimPolicy": None, "ephemeral": True}}
    killed.api.create(resource("ephemeral", spec(stage.hub.endpoint, patch)), stage.namespace)
    assert answer(Service(killed.api, stage.namespace, "ephemeral")) == answer(killed)


def test_a_model_in_a_claim_is_looked_at_by_a_job(servers: Mapping[str, Service]) -> None:
    service = servers["from-claim"]
    service.wait("ModelResolved", "True", "Resolved")
    assert service.condition("ModelResolved")["message"] == "known from its config.json"
    assert service.status["model"]["architecture"] == "LlamaForCausalLM"
    assert not service.condition("CacheReady")


def test_a_claim_of_one_node_serves(servers: Mapping[str, Service]) -> None:
    service = servers["without-preload"]
    service.wait("CacheReady", "True", "NoPreload")
    found = service.child(kinds.CLAIM, "-cache")
    assert found
    assert (found["spec"]["accessModes"], found["status"]["phase"]) == (["ReadWriteOnce"], "Bound")
    labels = [job["metadata"]["labels"] for job in service.jobs()]
    assert "preload" not in {one["app.kubernetes.io/component"] for one in labels}
