"""A VLLMDeployment under test: made, edited, watched through its conditions, looked at through its children."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from cluster.support.api import Api, ApiError, Manifest
from localcluster.wait import wait_for
from vllm_operator import kinds
from vllm_operator.api import API_VERSION, KIND
from vllm_operator.kinds import Kind
from vllm_operator.naming import INSTANCE, MANAGED_SELECTOR, child_name, resource_of

MODEL = "hf://Qwen/Qwen2.5-7B-Instruct"
COMMIT = "a09a35458c702b33eeacc393d103063234e8bc28"
HOLD = "localcluster.test/hold"
CONVERGE_SECONDS = 60.0
# Asking costs milliseconds, and whoever waits ten times as long between two looks waits too long.
_LOOK_SECONDS = 0.02

# Needs no GPU and no claim, and nothing to be looked at first, and so is ready within a second.
_PLAIN: Manifest = {
    "model": {"source": MODEL, "revision": COMMIT, "servedNames": ["qwen"], "maxLength": 8192},
    "gpu": {"count": 0},
    "cache": {"ephemeral": True},
}
# Lays a claim and a preload Job under it.
CACHED: Manifest = {"cache": {"ephemeral": None, "size": "20Gi"}}


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a JSON merge patch (RFC 7396) makes of `base`."""
    both = copy.deepcopy(dict(base))
    for key, value in patch.items():
        if value is None:
            both.pop(key, None)
        elif isinstance(value, Mapping):
            old = both.get(key)
            both[key] = merged(old if isinstance(old, Mapping) else {}, value)
        else:
            both[key] = copy.deepcopy(value)
    return both


def manifest(name: str, *patches: Mapping[str, Any]) -> Manifest:
    """Return a VLLMDeployment: the plainest one, with merge patches laid over its spec."""
    spec: Manifest = _PLAIN
    for patch in patches:
        spec = merged(spec, patch)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


@dataclass(frozen=True, slots=True)
class Service:
    """A VLLMDeployment in the cluster."""

    api: Api
    namespace: str
    name: str

    @classmethod
    def create(cls, api: Api, namespace: str, name: str, *patches: Mapping[str, Any]) -> Service:
        """Create one from merge patches over the plainest spec."""
        api.create(manifest(name, *patches), namespace)
        return cls(api, namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def body(self) -> Manifest:
        found = self.api.get(kinds.RESOURCE, self.namespace, self.name)
        assert found is not None, f"VLLMDeployment {self} is gone"
        return found

    @property
    def status(self) -> Manifest:
        found: Manifest = self.body.get("status") or {}
        return found

    @property
    def uid(self) -> str:
        return str(self.body["metadata"]["uid"])

    def edit(self, spec: Mapping[str, Any]) -> None:
        """Lay a merge patch over the spec."""
        self.api.merge(kinds.RESOURCE, self.namespace, self.name, {"spec": spec})

    def delete(self, policy: str = "Background") -> None:
        self.api.delete(kinds.RESOURCE, self.namespace, self.name, policy)

    @property
    def gone(self) -> bool:
        return self.api.get(kinds.RESOURCE, self.namespace, self.name) is None

    # --- conditions

    def condition(self, kind: str) -> Manifest:
        """Return a condition that speaks of the present spec; empty where there is none yet."""
        body = self.body
        for one in (body.get("status") or {}).get("conditions") or ():
            if one["type"] == kind and one["observedGeneration"] == body["metadata"]["generation"]:
                return dict(one)
        return {}

    def says(self, kind: str, status: str, reason: str = "") -> bool:
        """Whether a condition of the present spec has that status and, if one is given, that reason."""
        found = self.condition(kind)
        return found.get("status") == status and reason in ("", found["reason"])

    def wait(self, kind: str, status: str = "True", reason: str = "", timeout: float = CONVERGE_SECONDS) -> Manifest:
        """Wait until a condition says that, and return it."""

        def said() -> Manifest:
            found = self.condition(kind)
            assert found.get("status") == status, found or self.status
            assert reason in ("", found["reason"]), found
            return found

        return wait_for(said, timeout, f"{self}: {kind}={status} {reason}", _LOOK_SECONDS)

    def wait_ready(self, reason: str = "", timeout: float = CONVERGE_SECONDS) -> Service:
        """Wait until it is Ready, and return it."""
        self.wait("Ready", "True", reason, timeout)
        return self

    # --- children

    def child(self, kind: Kind, suffix: str = "") -> Manifest | None:
        """Return a child by the name it must have."""
        return self.api.get(kind, self.namespace, child_name(self.name, suffix))

    def children(self) -> list[Manifest]:
        """Return every object in the namespace that says it belongs to this resource."""
        found = [
            one
            for kind in kinds.CHILDREN
            if not kind.optional
            for one in self.api.list(kind, self.namespace, MANAGED_SELECTOR)
        ]
        return [one for one in found if resource_of(one["metadata"]) == self.name]

    @property
    def deployment(self) -> Manifest:
        found = self.child(kinds.DEPLOYMENT)
        assert found is not None, f"{self} has no Deployment"
        return found

    @property
    def replicas(self) -> int:
        return int(self.deployment["spec"]["replicas"])

    @property
    def container(self) -> Manifest:
        """The server's container in the Deployment's template."""
        found: Manifest = self.deployment["spec"]["template"]["spec"]["containers"][0]
        return found

    def pods(self, component: str = "server") -> list[Manifest]:
        """Return its pods that are not being deleted."""
        selector = f"{INSTANCE}={child_name(self.name)},app.kubernetes.io/component={component}"
        found = self.api.list(kinds.POD, self.namespace, selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def jobs(self) -> list[Manifest]:
        """Return its preload Jobs, oldest first."""
        found = [one for one in self.children() if one["kind"] == "Job"]
        return sorted(found, key=lambda job: int(job["metadata"]["resourceVersion"]))

    def events(self, reason: str) -> list[Manifest]:
        """Return what the operator said about it under a reason."""
        found = self.api.list(kinds.EVENT, self.namespace)
        mine = [one for one in found if one["involvedObject"].get("uid") == self.uid]
        return [one for one in mine if one["reason"] == reason]

    def release_pods(self, component: str = "server") -> None:
        """Let pods go on that the hold annotation keeps from being Ready; those that vanish meanwhile do not matter."""
        patch = {"metadata": {"annotations": {HOLD: None}}}
        for pod in self.pods(component):
            try:
                self.api.merge(kinds.POD, self.namespace, pod["metadata"]["name"], patch)
            except ApiError as error:
                if error.code != HTTPStatus.NOT_FOUND:
                    raise

    def release_until_ready(self) -> None:
        """Release pods of new preload Jobs, too: what held those before may outlast its removal by a moment."""

        def released() -> bool:
            self.release_pods("preload")
            return self.says("Ready", "True", "Available")

        wait_for(released, CONVERGE_SECONDS, f"{self} is Ready")

    def await_left(self, *left: str) -> None:
        """Wait until of a deleted resource nothing exists but the kinds named."""
        wait_for(
            lambda: self.gone and [one["kind"] for one in self.children()] == list(left),
            CONVERGE_SECONDS,
            f"{self}: nothing but {left or 'nothing'} is left",
        )


def ready_pods(pods: list[Manifest]) -> list[Manifest]:
    """Return those pods that are Ready."""

    def ready(pod: Manifest) -> bool:
        conditions = pod["status"].get("conditions") or ()
        return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)

    return [pod for pod in pods if ready(pod)]
