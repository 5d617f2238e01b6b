"""One resource, its reconciler, and a dictionary in the place of the API server that both see."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from objects import fields_v1
from planning import UID, spec_of
from vllm_operator import kinds
from vllm_operator.errors import Conflict, Gone
from vllm_operator.kinds import BY_NAME, Kind
from vllm_operator.naming import (
    FIELD_MANAGER,
    HANDOVER_MANAGER,
    JOB_LABEL,
    MANAGED_SELECTOR,
    RESOURCE_ANNOTATION,
    Key,
    labels,
)
from vllm_operator.plan.types import Defaults
from vllm_operator.reconciler import Reconciler
from vllm_operator.report import Failed, Report, render_report

KEY = Key("team-a", "chat")
Object = dict[str, Any]
Objects = list[Object]
SIZED = {"gpu": {"product": "NVIDIA-A100-SXM4-40GB"}, "sizing": {"mode": "Strict"}}
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
    errors: dict[str, Exception] = field(default_factory=dict)
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
        self._fail(f"get {kind}")
        return copy.deepcopy(self.objects.get((kind.kind, name)))

    async def get_metadata(self, kind: Kind, namespace: str, name: str) -> Object | None:
        found = await self.get(kind, namespace, name)
        return {"metadata": found["metadata"]} if found else None

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Objects:
        if kind is not kinds.POD:
            assert (namespace, selector) == (None, "")
            return [body for (one, _), body in self.objects.items() if one == kind.kind]
        assert namespace == "team-a"
        self.reads.append(f"list {kind}")
        label, _, value = selector.partition("=")
        pods = [body for (one, _), body in self.objects.items() if one == kind.kind]
        return [pod for pod in pods if pod["metadata"]["labels"].get(label) == value]

    async def each(self, kind: Kind) -> AsyncIterator[Object]:
        for body in await self.list(kind):
            yield body

    async def names(self, kind: Kind, selector: str = "", namespace: str | None = None) -> set[tuple[str, str]]:
        assert (selector, namespace) == (MANAGED_SELECTOR if kind.namespaced else "", None)
        self.reads.append(f"names {kind}")
        self._fail(f"list {kind}")
        return {("team-a" if kind.namespaced else "", name) for one, name in self.objects if one == kind.kind}

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
        generation = old.get("metadata", {}).get("generation", 0) + (bool(old) and spec != old.get("spec", {}))
        metadata = {**manifest["metadata"], "managedFields": held, "generation": generation}
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

    def _fail(self, call: str) -> None:
        if error := self.errors.pop(call, None):
            raise error

    def _called(self, call: str) -> None:
        self._fail(call)
        self.calls.append(call)


class World:
    """One resource, its reconciler and the API server that both see."""

    def __init__(self, **spec: Any) -> None:  # noqa: ANN401 - fields of a spec
        self.api = FakeApi()
        self.due: list[Key] = []
        self.restart()
        self.generation = 0
        self.ask(**spec)

    def restart(self, **defaults: Any) -> None:  # noqa: ANN401 - as of `Defaults`
        """A process, maybe another one, takes over, which no watch has told of anything yet."""
        self.reconciler = Reconciler(self.api, replace(Defaults(), **defaults), self.api)
        self.listener = self.reconciler.listener(self)

    def add(self, key: Key) -> None:
        """Nothing waits here: tests reconcile when they say so."""
        self.due.append(key)

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
        """Something changes an object of ours, and the watch tells; a status is that of the present spec."""
        old = self.api.objects[kind.kind, name]
        if "status" in change:
            change["status"] = {"observedGeneration": old["metadata"].get("generation", 0), **change["status"]}
        changed = {**old, **{key: {**old.get(key, {}), **value} for key, value in change.items()}}
        self.listener.child_seen(kind, "MODIFIED", self.api.store(kind.kind, name, changed))

    def relist(self) -> None:
        """The watch lists the children that exist."""
        known = {kind.kind: kind for kind in kinds.CHILDREN}
        for (kind, _), body in self.api.objects.items():
            if kind in known:
                self.listener.child_seen(known[kind], None, body)

    def lose(self, kind: Kind, name: str) -> None:
        """Somebody deletes an object of ours, and the watch tells."""
        gone = self.api.objects.pop((kind.kind, name))
        self.api.version += 1
        gone["metadata"]["resourceVersion"] = str(self.api.version)
        self.listener.child_seen(kind, "DELETED", gone)

    def see_pod(self, body: Object) -> None:
        """The watch tells of a pod of the resource."""
        body["metadata"]["annotations"] = {RESOURCE_ANNOTATION: "chat"}
        self.listener.pod_seen("MODIFIED", body)

    def finish_preload(self) -> None:
        name = next(name for kind, name in self.api.objects if kind == "Job")
        self.happen(kinds.JOB, name, status={"conditions": [{"type": "Complete", "status": "True"}]})

    def claim(self) -> str:
        """The claim that servers mount."""
        volumes = self.api.objects["Deployment", "chat"]["spec"]["template"]["spec"]["volumes"]
        return next(str(one["persistentVolumeClaim"]["claimName"]) for one in volumes if one["name"] == "cache")

    def roll_out(self, pods: int = 1) -> None:
        """The pods of the Deployment are there and ready, and no others."""
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        self.happen(kinds.DEPLOYMENT, "chat", status=dict.fromkeys(counts, pods))

    async def reconcile(self) -> list[str]:
        """One pass; the calls that changed something."""
        self.api.calls.clear()
        self.api.reads.clear()
        await self.reconciler.reconcile(KEY)
        return list(self.api.calls)

    async def fail(self, error: type[Exception]) -> list[str]:
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
        return str(self.condition("Ready")["reason"])

    def condition(self, kind: str) -> Object:
        """The condition of that type."""
        return next(one for one in self.status["conditions"] if one["type"] == kind)


class Jobs(World):
    """A world in which Jobs run when a test says so."""

    def ask(self, **spec: Any) -> None:  # noqa: ANN401 - fields of a spec
        super().ask(**{**SIZED, **spec})

    def job(self, component: str) -> Object | None:
        found = (body for (kind, name), body in self.api.objects.items() if kind == "Job" and f"-{component}-" in name)
        return next(found, None)

    def end(
        self, component: str, report: Report | str | None, *, last: bool = True, told: bool = True, ago: int = 0
    ) -> None:
        """A pod of the Job ends with a report, or a text, or fails without one; `last`: the Job too, seconds ago."""
        job = self.job(component)
        assert job
        template, name = job["spec"]["template"]["metadata"], job["metadata"]["name"]
        failed = report is None or isinstance(report, Failed)
        message = report if isinstance(report, str) else render_report(report) if report else ""
        ended = {"exitCode": int(failed), "message": message}
        pod = {
            "metadata": {
                "labels": {**labels("chat", component), JOB_LABEL: name},
                "annotations": template["annotations"],
                "ownerReferences": [{"kind": "Job", "uid": job["metadata"]["uid"], "controller": True}],
                "creationTimestamp": f"2026-01-01T00:00:{self.api.version:02}Z",
            },
            "status": {
                "phase": "Failed" if failed else "Succeeded",
                "containerStatuses": [{"name": "model", "state": {"terminated": ended}}],
            },
        }
        stored = self.api.store("Pod", f"{name}-{self.api.version}", pod)
        if told:
            self.listener.pod_seen("MODIFIED", stored)
        if last:
            self.finish(component, "Failed" if failed else "Complete", ago)

    def name_of(self, component: str) -> str:
        """The name of the Job."""
        job = self.job(component)
        assert job
        return str(job["metadata"]["name"])

    def finish(self, component: str, how: str, ago: float = 0) -> None:
        """The Job ends, or ended so many seconds ago."""
        when = (datetime.now(UTC) - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": how, "status": "True", "lastTransitionTime": when}
        self.happen(kinds.JOB, self.name_of(component), status={"conditions": [condition]})

    def args(self) -> list[str]:
        container = self.api.objects["Deployment", "chat"]["spec"]["template"]["spec"]["containers"][0]
        args: list[str] = container["args"]
        return args
