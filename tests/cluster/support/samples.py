"""Every sample of manifests/samples in the namespace of the golden manifests, with what the samples say they need."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import yaml

from cluster.support.api import Api, ApiError, Manifest, kind_of
from cluster.support.service import Service
from localcluster import nodes, pods
from localcluster.access import ClusterAccess
from planning import TEXT_OF_FILE
from vllm_operator import kinds
from vllm_operator.engine.pod import draining_source
from vllm_operator.naming import COMPONENT, MANAGED_SELECTOR
from vllm_operator.report import Failed, Reason, render_report

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "manifests" / "samples"
GOLDEN = ROOT / "tests" / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples as they were applied."""

    api: Api
    namespace: str = NAMESPACE

    def __getitem__(self, name: str) -> Service:
        return Service(self.api, NAMESPACE, name)

    def services(self) -> list[Service]:
        return [self[name] for name in NAMES]


def read(name: str) -> Manifest:
    """Return a sample by the name of its file, which is the name of its resource."""
    found: Manifest = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert found["metadata"]["name"] == name
    return found


def golden(name: str) -> list[Manifest]:
    """Return the reviewed children of a sample, then the resource with its reviewed status."""
    text = (GOLDEN / f"{name}.yaml").read_text()
    return list(yaml.safe_load_all(text.replace(TEXT_OF_FILE, json.dumps(draining_source()))))


def _unlisted_nodes() -> list[Manifest]:
    """A node with the card of the sample unlisted-gpu, which the harness does not know either."""
    (node,) = nodes.gpu_nodes("NVIDIA-L4", gpus=1, nodes=1, prefix="unlisted")
    node["metadata"]["labels"] |= {
        "nvidia.com/gpu.product": "NVIDIA-RTX-PRO-5000-Blackwell",
        "nvidia.com/gpu.memory": "48935",
    }
    return [node]


def extra_nodes() -> list[Manifest]:
    """Room for all at once: 8-GPU pods need nodes on which the scheduler has spread nothing else."""
    return [*nodes.gpu_nodes("NVIDIA-H100-80GB-HBM3", gpus=8, nodes=12, prefix="samples"), *_unlisted_nodes()]


def prerequisites() -> list[Manifest]:
    """Return what the samples refer to and the operator never makes."""
    return list(yaml.safe_load_all((FOLDER / "prerequisites" / "prerequisites.yaml").read_text()))


def no_hub(cluster: ClusterAccess) -> AbstractContextManager[None]:
    """Have Jobs that look at models of samples say that they reach no hub: one that says nothing is made again."""
    ending = {
        "fail": "true",
        "exit-code": "3",
        "termination-message": render_report(Failed(Reason.HUB, "there is none")),
    }
    annotations = {f"localcluster.test/{key}": value for key, value in ending.items()}
    return pods.annotate(cluster.kubectl.in_namespace(NAMESPACE), "samples", annotations, {COMPONENT: "inspect"})


def deploy(cluster: ClusterAccess, api: Api) -> Samples:
    """Create the samples and what they need, all at once and without waiting for anything."""
    cluster.add_nodes(extra_nodes())
    for one in prerequisites():
        api.create(one, NAMESPACE if kind_of(one).namespaced else None)
    for name in NAMES:
        api.create(read(name), NAMESPACE)
    return Samples(api)


def remove(cluster: ClusterAccess, samples: Samples) -> None:
    """Delete everything again, without waiting for it: claims that are retained, too."""
    for one in (*(read(name) for name in NAMES), *prerequisites()):
        _delete(samples.api, one)
    for claim in samples.api.list(kinds.CLAIM, NAMESPACE, MANAGED_SELECTOR):
        _delete(samples.api, claim)
    cluster.remove_nodes(extra_nodes())


def _delete(api: Api, one: Manifest) -> None:
    kind = kind_of(one)
    try:
        api.delete(kind, NAMESPACE if kind.namespaced else "", one["metadata"]["name"])
    except ApiError as error:
        if error.code != HTTPStatus.NOT_FOUND:
            raise
