"""One resource, its reconciler, and a dictionary in the place of the API server that both see."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from objects import fields_v1
from planning import UID, spec_of
from vllm_operator import kinds
from vllm_operator.errors import Conflict, Gone, OperatorError
from vllm_operator.kinds import BY_NAME, Kind
from vllm_operator.naming import FIELD_MANAGER, HANDOVER_MANAGER, RESOURCE_ANNOTATION, Key
from vllm_operator.plan.types import Defaults
from vllm_operator.reconciler import Reconciler

KEY = Key("team-a", "chat")
Object = dict[str, Any]
Objects = list[Object]
UNSIZED = {"gpu": {"count": 1}, "sizing": {"mode": "Off"}}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Nothing has to be brought or looked at first.
EPHEMERAL = {"cache": {"ephemeral": True}, "model": {"source": "hf://Qwen/Qwen3-8B", "revision": COMMIT}}


@dataclass
class FakeApi:
    """Objects by kind and name, the calls that changed them, and the errors that are to be raised by kind."""

    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    errors: dict[str, OperatorError] = field(default_factory=dict)
    logs: dict[tuple[str, str, bool], str] = field(default_factory=dict)  # by pod, container and previous
    version: int = 0

    def store(self, kind: str, name: str, body: Object, *, uid: str = "") -> Object:
        self.version += 1
        known = self.objects.get((kind, name), {}).get("metadata", {})
        metadata = {"name": name, "namespace": "team-a", **body.get("metadata", {})}
        metadata |= {"uid": uid or known.get("uid") or f"{kind}-{self.version}", "resourceVersion": str(self.version)}
        self.objects[kind, name] = {**body, "metadata": metadata}
        return copy.deepcopy(self.objects[kind, name])

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        assert namespace == "team-a"
        self.reads.append(f"get {kind} {name}")
        return copy.deepcopy(self.objects.get((kind.kind, name)))

    async def get_metadata(self, kind: Kind, namespace: str, name: str) -> Object | None:
        found = await self.get(kind, namespace, name)
        return {"metadata": found["metadata"]} if found else None

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Objects:
        if kind is not kinds.POD:
            assert (namespace, selector) == (None, "")
            return [body for (one, _), body in self.objects.items() if one == kind.kind]
        assert namespace == "team-a"
        label, _, value = selector.partition("=")
        pods = [body for (one, _), body in self.objects.items() if one == kind.kind]
        return [pod for pod in pods if pod["metadata"]["labels"].get(label) == value]

    async def list_metadata(self, kind: Kind, selector: str = "", namespace: str | None = None) -> Objects:
        raise AssertionError(f"{kind} {selector} {namespace}: nothing here resyncs")

    async def pod_log(self, namespace: str, pod: str, container: str, *, previous: bool, lines: int) -> str:
        assert namespace == "team-a"
        assert lines
        if (pod, container, previous) not in self.logs:
            raise Gone(pod)
        return self.logs[pod, container, previous]

    async def events_about(self, namespace: str, uid: str) -> Objects:
        assert namespace == "team-a"
        return [
            body for (kind, _), body in self.objects.items() if kind == "Event" and body["involvedObject"]["uid"] == uid
        ]

    async def serves(self, kind: Kind) -> bool:
        return not kind.optional

    async def apply(
        self, manifest: Object, manager: str = FIELD_MANAGER, *, new: bool = False, dry_run: bool = False
    ) -> Object:
        assert not dry_run
        kind, name = BY_NAME[manifest["apiVersion"], manifest["kind"]], manifest["metadata"]["name"]
        if new and (kind.kind, name) in self.objects:
            self.reads.append(f"find {kind} {name}")
            raise Conflict(name)
        self._called(f"{'apply' if manager == FIELD_MANAGER else 'park'} {kind}")
        old = self.objects.get((kind.kind, name), {})
        if manager == HANDOVER_MANAGER:
            return self.store(kind.kind, name, {**old, "spec": {**old["spec"], **manifest["spec"]}})
        held = [{"manager": manager, "operation": "Apply", "fieldsV1": fields_v1(manifest)}]
        spec = {**old.get("spec", {}), **manifest.get("spec", {})} if "spec" in manifest else {}
        metadata = {**manifest["metadata"], "managedFields": held}
        return self.store(kind.kind, name, {**old, **manifest, "metadata": metadata, "spec": spec})

    async def apply_alone(self, manifest: Object) -> Object:
        return await self.apply(manifest)

    async def apply_status(self, namespace: str, name: str, status: Object) -> Object:
        assert namespace == "team-a"
        self._called("status")
        return self.store("VLLMDeployment", name, {**self.objects["VLLMDeployment", name], "status": status}, uid=UID)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> bool:
        assert namespace == "team-a"
        assert self.objects[kind.kind, name]["metadata"]["uid"] == uid, "that very object"
        self._called(f"delete {kind}")
        del self.objects[kind.kind, name]
        return True

    async def record(self, resource: object, kind: str, reason: str, message: str) -> None:
        assert resource
        self.calls.append(f"event {kind} {reason}")
        assert message

    def _called(self, call: str) -> None:
        if error := self.errors.pop(call, None):
            raise error
        self.calls.append(call)


class World:
    """One resource, its reconciler and the API server that both see."""

    def __init__(self, **spec: Any) -> None:  # noqa: ANN401 - fields of a spec
        self.api = FakeApi()
        self.restart()
        self.generation = 0
        self.ask(**spec)

    def restart(self, **defaults: Any) -> None:  # noqa: ANN401 - as of `Defaults`
        """A process, maybe another one, takes over, which no watch has told of anything yet."""
        self.reconciler = Reconciler(self.api, replace(Defaults(), **defaults), self.api)
        self.listener = self.reconciler.listener(self)

    def add(self, key: Key) -> None:
        """Nothing waits here: tests reconcile when they say so."""

    def add_soon(self, key: Key) -> None:
        """As `add`."""

    def add_after(self, key: Key, seconds: float) -> None:
        """As `add`."""

    def ask(self, **spec: Any) -> None:  # noqa: ANN401
        """A user writes the resource, and the watch tells."""
        self.listener.resource_seen("MODIFIED", self.write(**spec))

    def write(self, **spec: Any) -> Object:  # noqa: ANN401
        """A user writes the resource, of which no watch tells."""
        self.generation += 1
        known = self.api.objects.get(("VLLMDeployment", "chat"), {})
        body = {**known, "metadata": {"generation": self.generation}, "spec": spec_of(**{**UNSIZED, **spec})}
        return self.api.store("VLLMDeployment", "chat", body, uid=UID)

    def happen(self, kind: Kind, name: str, **change: Any) -> None:  # noqa: ANN401 - status or spec
        """Something changes an object of ours, and the watch tells."""
        old = self.api.objects[kind.kind, name]
        changed = {**old, **{key: {**old.get(key, {}), **value} for key, value in change.items()}}
        self.listener.child_seen(kind, "MODIFIED", self.api.store(kind.kind, name, changed))

    def see_pod(self, body: Object) -> None:
        """The watch tells of a pod of the resource."""
        body["metadata"]["annotations"] = {RESOURCE_ANNOTATION: "chat"}
        self.listener.pod_seen("MODIFIED", body)

    def finish_preload(self) -> None:
        name = next(name for kind, name in self.api.objects if kind == "Job")
        self.happen(kinds.JOB, name, status={"conditions": [{"type": "Complete", "status": "True"}]})

    async def reconcile(self) -> list[str]:
        """One pass; the calls that changed something."""
        self.api.calls.clear()
        self.api.reads.clear()
        await self.reconciler.reconcile(KEY)
        return list(self.api.calls)

    async def fail(self, error: type[OperatorError]) -> list[str]:
        """One pass that ends with an error."""
        self.api.calls.clear()
        self.api.reads.clear()
        with pytest.raises(error):
            await self.reconciler.reconcile(KEY)
        return list(self.api.calls)

    @property
    def status(self) -> Object:
        found: Object = self.api.objects["VLLMDeployment", "chat"]["status"]
        return found

    def ready(self) -> str:
        return next(str(one["reason"]) for one in self.status["conditions"] if one["type"] == "Ready")
