"""VLLMDeployments of the tiny model that two cores can run, and what they are when they serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from node.support.stage import BASE, Stage

Manifest = dict[str, Any]

READY_SECONDS = 600.0
KV_CACHE_BYTES = 64 * 2**20
MAX_LENGTH = 1024
_SELECTOR = "app.kubernetes.io/component=server,app.kubernetes.io/instance="
# A server asks for as many cores as the node has; and it is looked at as soon as it serves.
_OVERLAY = {
    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
    "startupProbe": {"periodSeconds": 1, "failureThreshold": int(READY_SECONDS)},
}


@dataclass(frozen=True, slots=True)
class Served:
    """A VLLMDeployment by its name, in the namespace of a stage."""

    kubectl: Kubectl
    name: str

    @property
    def resource(self) -> Manifest:
        return self._object("vllmdeployment", self.name)

    @property
    def status(self) -> Manifest:
        found: Manifest = self.resource.get("status", {})
        return found

    @property
    def url(self) -> str:
        """The Service by its address, as this machine reaches it."""
        return f"http://{self._object('service', self.name)['spec']['clusterIP']}"

    @property
    def pod(self) -> Manifest:
        """The only pod of the server that is not being deleted."""
        (found,) = [one for one in self.pods if "deletionTimestamp" not in one["metadata"]]
        return found

    @property
    def pods(self) -> list[Manifest]:
        """All pods of the server."""
        return self.kubectl.items("pods", f"--selector={_SELECTOR}{self.name}")

    @property
    def container(self) -> Manifest:
        """The container of the pod, as its spec says."""
        found: Manifest = self.pod["spec"]["containers"][0]
        return found

    @property
    def log(self) -> str:
        return self.kubectl("logs", self.pod["metadata"]["name"]).stdout

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in the server's container and return what it wrote to either stream."""
        done = self.kubectl("exec", self.pod["metadata"]["name"], "--", *command, check=check)
        return done.stdout + done.stderr

    def condition(self, kind: str) -> Manifest:
        """The condition of that type; empty when there is none."""
        return _condition(self.resource, kind)

    def wait_ready(self) -> None:
        """Wait until the resource is Ready for what its spec says now; fail at once where it will not heal."""
        wait_for(self._is_ready, READY_SECONDS, f"{self.name} is Ready", interval=0.2)

    def _is_ready(self) -> bool:
        resource = self.resource
        stalled, ready = _condition(resource, "Stalled"), _condition(resource, "Ready")
        if stalled.get("status") == "True":
            pytest.fail(f"{self.name} will not heal: {stalled}")
        assert ready.get("status") == "True", f"{ready}"
        assert ready["observedGeneration"] == resource["metadata"]["generation"], f"{ready}"
        return True

    def _object(self, kind: str, name: str) -> Manifest:
        found = self.kubectl.get(kind, name)
        assert found is not None, f"there is no {kind} {name}"
        return found


def _condition(resource: Manifest, kind: str) -> Manifest:
    conditions: list[Manifest] = resource.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def tiny(stage: Stage, name: str, engine: Mapping[str, Any] | None = None) -> Manifest:
    """Return a VLLMDeployment of the tiny model on the CPU backend; `engine` adds to spec.engine."""
    settings = {
        "maxSequences": 4,
        "maxBatchedTokens": 2048,
        "kvCacheMemory": str(KV_CACHE_BYTES),
        "enforceEager": True,
    }
    return bare(stage, name, settings | dict(engine or {}))


def bare(stage: Stage, name: str, engine: Mapping[str, Any]) -> Manifest:
    """Return a VLLMDeployment of the tiny model, from the hub of the stage, with `engine` for its spec.engine."""
    hub = {"name": "HF_ENDPOINT", "value": stage.hub.endpoint}
    return {
        "apiVersion": "vllm-operator.dev/v1alpha1",
        "kind": "VLLMDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": f"hf://{BASE}", "dtype": "float32", "maxLength": MAX_LENGTH, "servedNames": [name]},
            "gpu": {"count": 0},
            "engine": {**engine, "env": [hub, *engine.get("env", ())]},
            "cache": {"size": "2Gi"},
            "podTemplate": {"spec": {"containers": [{"name": "vllm"} | _OVERLAY]}},
        },
    }


def serve(stage: Stage, manifest: Manifest) -> Served:
    """Apply a VLLMDeployment and wait until it is Ready."""
    stage.kubectl.apply(manifest)
    served = Served(stage.kubectl, manifest["metadata"]["name"])
    served.wait_ready()
    return served
