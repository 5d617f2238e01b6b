"""The part of the demo that is real: one node, a model hub, vLLM, and a chat answer as it is made."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from demo.background import Background
from images import models
from localcluster import kwok, node
from localcluster.cluster import Cluster
from localcluster.nodeconfig import NODE_NAME
from localcluster.nodes import fleet
from localcluster.wait import wait_for
from operator_process import ROOT

RESOURCE = Path(__file__).with_name("chat.yaml")
QUESTION = "What does an operator do?"
_STORAGE_CLASS = "real"
_REAL = "demo=real"
_HUB_SECONDS = 30.0
_ANSWER_SECONDS = 60.0


def furnish(cluster: Cluster) -> None:
    """Put simulated GPU nodes beside the real one, and give each sort volumes of its own."""
    admin = cluster.kubectl
    folder_class = node.storage_classes()[0]
    if not admin.get("storageclass", _STORAGE_CLASS):
        admin("delete", "storageclass", "--all")
        admin.apply([*kwok.storage_classes(), _only_on_request(folder_class)])
    admin("taint", "node", NODE_NAME, f"{_REAL}:NoSchedule", "--overwrite")
    admin("label", "node", NODE_NAME, _REAL, "--overwrite")
    known = {one["metadata"]["name"] for one in admin.items("nodes")}
    missing = [one for one in fleet() if one["metadata"]["name"] not in known]
    if missing:
        cluster.add_nodes(missing)


def _only_on_request(storage_class: Mapping[str, Any]) -> dict[str, Any]:
    return {**storage_class, "metadata": {"name": _STORAGE_CLASS}}


def resource(cluster: Cluster, hub: Background) -> dict[str, Any]:
    """The resource, with the address of a hub that serves its model; starts the hub."""
    folder = cluster.folder / "models"
    models.tiny_llama(folder / "demo" / "tiny-llama")
    address = node_address(cluster)
    hub.start(["-m", "hub", str(folder), "--address", address], {"PYTHONPATH": str(ROOT / "tests")})
    endpoint = wait_for(lambda: _endpoint(hub.log), _HUB_SECONDS, "the model hub of the demo")
    found: dict[str, Any] = yaml.safe_load(RESOURCE.read_text().replace("value: HUB", f"value: {endpoint}"))
    return found


def node_address(cluster: Cluster) -> str:
    """This machine as pods on the real node see it."""
    if cluster.record.network is None:
        raise ValueError("the demo's cluster has no real node")
    return cluster.record.network.host


def _endpoint(log: Path) -> str:
    """What the hub says first: HF_ENDPOINT=URL REPOSITORY."""
    lines = log.read_text().splitlines() if log.exists() else []
    return next((line.split()[0].partition("=")[2] for line in lines if line.startswith("HF_ENDPOINT=")), "")


def request(address: str) -> urllib.request.Request:
    """A chat completion that is streamed; its Service has `address`."""
    body = {
        "model": "demo/tiny-llama",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 48,
        "temperature": 0,
        "stream": True,
    }
    headers = {"Content-Type": "application/json"}
    return urllib.request.Request(f"http://{address}/v1/chat/completions", json.dumps(body).encode(), headers)


def stream(address: str) -> Iterator[str]:
    """The answer, piece by piece as it comes."""
    with urllib.request.urlopen(request(address), timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - our own cluster
        for line in answer:
            data = line.decode().strip().removeprefix("data: ")
            if data and data != "[DONE]":
                yield json.loads(data)["choices"][0]["delta"].get("content") or ""


def show(address: str) -> str:
    """Ask, print the answer as it comes, and return it."""
    print(f"  you:  {QUESTION}\n  vLLM: ", end="", flush=True)
    said = []
    for piece in stream(address):
        print(piece, end="", flush=True)
        said.append(piece)
    print(f"{os.linesep}  (random weights: it speaks, and says nothing)")
    sys.stdout.flush()
    return "".join(said)
