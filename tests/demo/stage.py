"""What the demo sets up and takes down: the cluster, the operator in the background, the samples."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import operator_process
from demo import chat
from demo.background import Background
from localcluster import probe, state
from localcluster.cluster import Cluster
from localcluster.errors import LocalClusterError
from localcluster.kubectl import Kubectl
from localcluster.requirements import NodeUnavailableError
from localcluster.wait import wait_for
from operator_process import ROOT

Manifest = dict[str, Any]

NAME = "demo"  # of the local cluster, and of the namespace that holds the samples
SAMPLES = ROOT / "manifests" / "samples"
PREREQUISITES = SAMPLES / "prerequisites" / "prerequisites.yaml"
# One of every sort: sizes from 7B to 405B, quantised, chosen by the nodes, autoscaled, without a GPU, own server.
CHOSEN = (
    "mistral-7b",
    "llama-8b",
    "qwen-7b-gptq",
    "any-gpu",
    "autoscaled",
    "llama-70b-a100-80",
    "qwen-72b-awq",
    "llama-405b-fp8",
    "own-server",
    "cpu",
)
CHAT = "chat"  # the one that runs on the real node
TOO_LARGE = Path(__file__).with_name("too-large.yaml")

_OPERATOR_SECONDS = 60.0
_SETTLE_SECONDS = 120.0
_ANSWER_SECONDS = 300.0


class DemoError(LocalClusterError):
    """A step did not come to its end; the text says which, and what was seen last."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The demo's cluster with all that is in it."""

    cluster: Cluster
    left_out: str = ""  # why nothing here is real

    @property
    def kubectl(self) -> Kubectl:
        return self.cluster.kubectl.in_namespace(NAME)

    @property
    def programs(self) -> Path:
        """A folder for PATH: kubectl, and the operator's commands, also as a plugin of kubectl."""
        return self.cluster.folder / "bin"

    @property
    def operator(self) -> Background:
        return Background(self.cluster.folder, "operator")

    @property
    def hub(self) -> Background:
        return Background(self.cluster.folder, "hub")

    def furnish(self) -> None:
        """Put the simulated nodes beside the real one."""
        if not self.left_out:
            chat.furnish(self.cluster)

    def install(self) -> None:
        """Apply CRD and RBAC of manifests/install.yaml and start the operator with exactly those rights."""
        operator_process.install(self.cluster.kubectl)
        account = self.cluster.kubeconfig_for(operator_process.ACCOUNT, operator_process.NAMESPACE)
        port = operator_process.free_port()
        operator = self.operator
        process = operator.start(operator_process.COMMAND[1:], operator_process.environment(account, port))
        ready = f"http://127.0.0.1:{port}/readyz"
        try:
            wait_for(lambda: not process.alive or probe.status_of(ready) == 200, _OPERATOR_SECONDS)
        except TimeoutError:
            raise DemoError(f"the operator is not ready after {_OPERATOR_SECONDS:g} s;{operator.tail()}") from None
        if not process.alive:
            raise DemoError(f"the operator ended at once;{operator.tail()}")

    def offer_programs(self) -> None:
        """Put the commands that a user would install into one folder."""
        self.programs.mkdir(exist_ok=True)
        kubectl = self.programs / "kubectl"
        kubectl.unlink(missing_ok=True)
        kubectl.symlink_to(self.kubectl.program)
        for name in ("vllm-operator", "kubectl-vllm"):
            start = f"import sys; sys.argv[0] = {name!r}; from vllm_operator.__main__ import main; sys.exit(main())"
            words = ["exec", "env", f"PYTHONPATH={ROOT / 'operator'}", sys.executable, "-c", start]
            script = self.programs / name
            script.write_text(f'#!/bin/sh\n{shlex.join(words)} "$@"\n')
            script.chmod(0o755)

    def apply(self) -> None:
        """Apply what answers and the samples as a user would, into a namespace that the kubeconfig then stands in."""
        admin = self.cluster.kubectl
        admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}})
        admin("config", "set-context", "--current", f"--namespace={NAME}")
        if not self.left_out:
            self.kubectl.apply(chat.resource(self.cluster, self.hub))
        files = [PREREQUISITES, *(SAMPLES / f"{name}.yaml" for name in CHOSEN), TOO_LARGE]
        self.kubectl("apply", *(f"--filename={path}" for path in files))

    def resources(self) -> list[Manifest]:
        """The resources as they are now, in the order in which they were chosen."""
        order = {name: index for index, name in enumerate((*CHOSEN, TOO_LARGE.stem))}
        found = [one for one in self.kubectl.items("vllmdeployments") if one["metadata"]["name"] in order]
        return sorted(found, key=lambda one: order[one["metadata"]["name"]])

    def settle(self, progress: Callable[[int, int], None]) -> list[Manifest]:
        """Wait until every resource is Ready, or refused for good, and return them.

        Raises:
            DemoError: one is neither; the text says what it waits for.
        """

        def settled() -> list[Manifest]:
            found = self.resources()
            done = [one for one in found if is_ready(one) or is_refused(one)]
            progress(len(done), len(found))
            return found if len(done) == len(found) else []

        try:
            return wait_for(settled, _SETTLE_SECONDS, interval=0.5)
        except TimeoutError:
            waiting = [one for one in self.resources() if not is_ready(one) and not is_refused(one)]
            lines = [f"  {one['metadata']['name']}: {condition(one, 'Ready').get('message', '')}" for one in waiting]
            text = "\n".join(lines)
            raise DemoError(f"not Ready after {_SETTLE_SECONDS:g} s:\n{text}\n{self.operator.tail()}") from None

    def answering(self, progress: Callable[[str], None]) -> str:
        """Address of the Service of what answers, once it is Ready; `progress` is told what it waits for.

        Raises:
            DemoError: it is not Ready in time, or never will be; the text says why.
        """
        last: Manifest = {}

        def there() -> bool:
            nonlocal last
            last = self.kubectl.get("vllmdeployment", CHAT) or {}
            progress(condition(last, "Ready").get("message", "") if last else "")
            return is_ready(last) or is_refused(last)

        with contextlib.suppress(TimeoutError):
            wait_for(there, _ANSWER_SECONDS, interval=0.5)
        if not is_ready(last):
            why = condition(last, "Ready").get("message", "") if last else "it is gone"
            raise DemoError(f"{CHAT} is not Ready: {why}\n{self.operator.tail()}")
        service = self.kubectl.get("service", CHAT) or {}
        return str(service["spec"]["clusterIP"])

    def children(self, kinds: Sequence[str]) -> list[Manifest]:
        """Every object that the operator made in the namespace, of these kinds."""
        return self.kubectl.items(",".join(kinds), "--selector=app.kubernetes.io/managed-by=vllm-operator")


def condition(resource: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """A condition of the present spec; empty where there is none yet."""
    generation = resource["metadata"]["generation"]
    for one in (resource.get("status") or {}).get("conditions") or ():
        if one["type"] == kind and one["observedGeneration"] == generation:
            return dict(one)
    return {}


def is_ready(resource: Mapping[str, Any]) -> bool:
    """Whether a resource does what its spec says."""
    return condition(resource, "Ready").get("status") == "True"


def is_refused(resource: Mapping[str, Any]) -> bool:
    """Whether waiting will not help a resource."""
    return condition(resource, "Stalled").get("status") == "True"


def open_stage() -> Stage:
    """Start the demo's cluster, unless it runs, and return it.

    Raises:
        LocalClusterError: a program cannot be built, or the cluster does not start.
    """
    try:
        cluster, _ = Cluster.up(NAME, real_node=True)
    except NodeUnavailableError as reason:
        cluster, _ = Cluster.up(NAME)
        return Stage(cluster, left_out=str(reason))
    return Stage(cluster)


def close_stage() -> bool:
    """End everything that the demo started and remove its files; false when there was nothing."""
    layout = state.layout_of(NAME)
    with state.locked(NAME):
        existed = layout.root.exists()
        for name in ("operator", "hub"):
            Background(layout.root, name).stop()
        state.wipe(layout)
        shutil.rmtree(layout.root, ignore_errors=True)
    return existed
