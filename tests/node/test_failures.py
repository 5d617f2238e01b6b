"""What can go wrong is said with a reason and a remedy, and heals when the remedy is applied.

All of it is real: the node, the hub, vLLM and its log. Each story (node/support/stories.py) is a resource with several
faults at once; those in which vLLM does not matter run a server of three lines, as `engine.command` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from cluster.support.api import Api, ApiError
from hub import Hub
from localcluster import nodeconfig
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from node.support import broken
from node.support.cluster_stories import cache_stories, hub_story, pod_stories, quantization_story
from node.support.specs import resource, spec
from node.support.stage import Stage, on_stage
from node.support.stories import Story, tell
from node.support.vllm_stories import CPU_IMAGE, OTHER_IMAGE, engine_story, model_story
from operator_process import free_port

pytestmark = pytest.mark.real_node

DEADLINE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class AbsentHub:
    """A hub that is not there until it comes back, with what another one has."""

    address: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{self.port}"

    def like(self, other: Hub) -> Hub:
        """Return it, to be started."""
        made = Hub(self.address, self.port)
        made.repositories, made.tokens = other.repositories, other.tokens
        return made


def all_stories(hub: str, absent: str, comes_back: Callable[[], object]) -> list[Story]:
    """Return the stories; one of them is of a hub at `absent`, the others of that at `hub`."""
    with_vllm = [engine_story(hub), model_story(hub)]
    return [*with_vllm, hub_story(absent, comes_back), quantization_story(hub), *cache_stories(hub), *pod_stories(hub)]


NAMES = [story.name for story in all_stories("", "", lambda: None)]
FAILURES = [failure.name for story in all_stories("", "", lambda: None) for failure in story.failures]


@pytest.fixture(scope="module")
def stage(cluster: ClusterAccess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stage, with a node without GPUs, and with a hub of broken models."""
    assert isinstance(cluster, Cluster)
    cluster.set_gpus("NVIDIA-L4", 0)
    cluster.node.run(*_CTR, "images", "tag", "--force", CPU_IMAGE, OTHER_IMAGE)
    with on_stage(cluster, "failures") as stage:
        broken.offer(stage.hub, tmp_path_factory.mktemp("broken"))
        yield stage
    cluster.set_gpus("NVIDIA-L4", 0)


_CTR = ("ctr", "--address", nodeconfig.SOCKET, "--namespace", "k8s.io")


@pytest.fixture(scope="module")
def told(stage: Stage) -> Iterator[Mapping[str, Future[None]]]:
    """What becomes of every failure and, in the end, of every resource; all stories begin at once."""
    absent = AbsentHub(stage.cluster.node.network.host, free_port())
    with ExitStack() as back:
        stories = all_stories(stage.hub.endpoint, absent.endpoint, lambda: back.enter_context(absent.like(stage.hub)))
        yield tell(stage, Api(stage.cluster.kubeconfig), stories)


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_told_with_its_remedy(told: Mapping[str, Future[None]], name: str) -> None:
    told[name].result(DEADLINE_SECONDS)


@pytest.mark.parametrize("name", NAMES)
def test_serves_once_every_remedy_is_applied(told: Mapping[str, Future[None]], name: str) -> None:
    told[name].result(DEADLINE_SECONDS)


def test_quantisations_that_vllm_has_given_up_are_refused_by_the_api_server(stage: Stage) -> None:
    given_up = resource("given-up", spec(stage.hub.endpoint, {"model": {"quantization": "squeezellm"}}))
    with pytest.raises(ApiError, match="not part of vLLM any more: use a checkpoint in AWQ"):
        Api(stage.cluster.kubeconfig).create(given_up, stage.namespace)
