"""The order of one pass, and what it does about refusals that are hard to provoke from a real API server.

The API server here is a dictionary. That passes work against a real one is shown in tests/cluster.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest

from planning import UID, spec_of
from vllm_operator import kinds
from vllm_operator.errors import Blocked, Conflict, Gone, OperatorError, Transient
from vllm_operator.kinds import BY_NAME, Kind
from vllm_operator.naming import FIELD_MANAGER, HANDOVER_MANAGER, Key
from vllm_operator.plan.types import Defaults
from vllm_operator.reconciler import Reconciler

KEY = Key("team-a", "chat")
Object = dict[str, Any]
Objects = list[Object]
UNSIZED = {"gpu": {"count": 1}, "sizing": {"mode": "Off"}}


@dataclass
class FakeApi:
    """Objects by kind and name, the calls that changed them, and the errors that are to be raised by kind."""

    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    errors: dict[str, OperatorError] = field(default_factory=dict)
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
        return copy.deepcopy(self.objects.get((kind.kind, name)))

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Objects:
        assert (namespace, selector) == (None, "")
        return [body for (one, _), body in self.objects.items() if one == kind.kind]

    async def list_metadata(self, kind: Kind, selector: str = "", namespace: str | None = None) -> Objects:
        raise AssertionError(f"{kind} {selector} {namespace}: nothing here resyncs")

    async def serves(self, kind: Kind) -> bool:
        return not kind.optional

    async def apply(self, manifest: Object, manager: str = FIELD_MANAGER, *, dry_run: bool = False) -> Object:
        assert not dry_run
        kind, name = BY_NAME[manifest["apiVersion"], manifest["kind"]], manifest["metadata"]["name"]
        self._called(f"{'apply' if manager == FIELD_MANAGER else 'park'} {kind}")
        old = self.objects.get((kind.kind, name), {})
        if manager == HANDOVER_MANAGER:
            return self.store(kind.kind, name, {**old, "spec": {**old["spec"], **manifest["spec"]}})
        fields: Object = {f"f:{key}": {} for key in manifest.get("spec", {})}
        held = [{"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": fields}}]
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
        self.reconciler = Reconciler(self.api, Defaults(), self.api)
        self.listener = self.reconciler.listener(self)
        self.generation = 0
        self.ask(**spec)

    def add(self, key: Key) -> None:
        """Nothing waits here: tests reconcile when they say so."""

    def add_after(self, key: Key, seconds: float) -> None:
        """As `add`."""

    def ask(self, **spec: Any) -> None:  # noqa: ANN401
        self.generation += 1
        known = self.api.objects.get(("VLLMDeployment", "chat"), {})
        body = {**known, "metadata": {"generation": self.generation}, "spec": spec_of(**UNSIZED, **spec)}
        self.api.store("VLLMDeployment", "chat", body, uid=UID)

    def happen(self, kind: Kind, name: str, **change: Any) -> None:  # noqa: ANN401 - status or spec
        """Something changes an object of ours, and the watch tells."""
        old = self.api.objects[kind.kind, name]
        changed = {**old, **{key: {**old.get(key, {}), **value} for key, value in change.items()}}
        self.listener.child_seen(kind, "MODIFIED", self.api.store(kind.kind, name, changed))

    def finish_preload(self) -> None:
        name = next(name for kind, name in self.api.objects if kind == "Job")
        self.happen(kinds.JOB, name, status={"conditions": [{"type": "Complete", "status": "True"}]})

    async def reconcile(self) -> list[str]:
        """One pass; the calls that changed something."""
        self.api.calls.clear()
        await self.reconciler.reconcile(KEY)
        return list(self.api.calls)

    async def fail(self, error: type[OperatorError]) -> list[str]:
        """One pass that ends with an error."""
        self.api.calls.clear()
        with pytest.raises(error):
            await self.reconciler.reconcile(KEY)
        return list(self.api.calls)

    @property
    def status(self) -> Object:
        found: Object = self.api.objects["VLLMDeployment", "chat"]["status"]
        return found

    def ready(self) -> str:
        return next(str(one["reason"]) for one in self.status["conditions"] if one["type"] == "Ready")


BEFORE_PODS = ["apply ServiceAccount", "apply PersistentVolumeClaim", "apply Job", "apply Service"]


async def test_children_come_in_order_and_servers_wait_for_the_cache() -> None:
    world = World()
    first = await world.reconcile()
    assert first[:5] == [*BEFORE_PODS, "status"]
    assert world.ready() == "Preloading"
    world.finish_preload()
    assert (await world.reconcile())[:2] == ["apply Deployment", "status"]


async def test_a_second_pass_writes_nothing() -> None:
    world = World()
    await world.reconcile()
    assert await world.reconcile() == []
    world.finish_preload()
    await world.reconcile()
    assert await world.reconcile() == []


async def test_running_servers_stay_until_the_files_of_the_next_model_are_there() -> None:
    world = World(cache={"size": "90Gi"})
    await world.reconcile()
    world.finish_preload()
    await world.reconcile()
    world.ask(cache={"size": "90Gi"}, model={"source": "hf://Qwen/Qwen3-4B"})
    calls = await world.reconcile()
    assert "apply Job" in calls
    assert "apply Deployment" not in calls
    assert "delete Job" in calls, "the one for the former model"
    world.finish_preload()
    assert "apply Deployment" in await world.reconcile()


async def test_suspending_frees_the_gpus_even_before_the_download() -> None:
    world = World(suspend=True)
    assert "apply Deployment" in await world.reconcile()
    world.ask()
    calls = await world.reconcile()
    assert "apply Job" in calls
    assert "apply Deployment" not in calls, "what is woken runs nothing yet: it can wait for the cache"


async def test_one_child_that_is_blocked_does_not_keep_the_others() -> None:
    world = World()
    world.api.errors["apply Service"] = Blocked("QuotaExceeded", "exceeded quota: services")
    calls = await world.fail(Blocked)
    assert [call for call in calls if call.startswith("apply")] == [
        one for one in BEFORE_PODS if one != "apply Service"
    ]
    assert world.ready() == "QuotaExceeded"
    assert "event Warning QuotaExceeded" in calls
    assert "apply Service" in await world.reconcile(), "it is tried again"


async def test_a_server_that_fails_for_a_while_ends_the_pass_after_the_rest_of_it() -> None:
    world = World()
    world.api.errors["apply ServiceAccount"] = Transient("502")
    calls = await world.fail(Transient)
    assert calls[:4] == [*BEFORE_PODS[1:], "status"]


async def test_a_conflict_over_the_status_is_another_pass() -> None:
    """Whether the resource went or changed is found out by looking, so nothing is lost."""
    world = World()
    world.api.errors["status"] = Conflict("the object has been modified")
    await world.fail(Conflict)
    assert (await world.reconcile())[:1] == ["status"]


async def test_what_another_made_is_left_alone_and_looked_for_again() -> None:
    world = World()
    world.api.store("Service", "chat", {"spec": {"clusterIP": "10.0.0.1"}})
    before = copy.deepcopy(world.api.objects["Service", "chat"])
    calls = await world.fail(Blocked)
    assert "apply Service" not in calls
    assert world.api.objects["Service", "chat"] == before
    assert world.ready() == "NameConflict"
    del world.api.objects["Service", "chat"]  # of which no watch tells: it did not carry our label
    assert "apply Service" in await world.reconcile()


async def test_no_pod_stands_on_what_another_made() -> None:
    world = World()
    world.api.store("ServiceAccount", "chat", {})
    calls = await world.fail(Blocked)
    assert not {"apply Job", "apply Deployment"} & set(calls)
    assert "apply Service" in calls


async def test_replicas_are_parked_before_they_are_let_go() -> None:
    world = World(replicas=3, cache={"ephemeral": True})
    await world.reconcile()
    world.ask(cache={"ephemeral": True}, autoscaling={"maxReplicas": 5})
    calls = await world.reconcile()
    assert calls.index("park Deployment") + 1 == calls.index("apply Deployment")
    assert world.api.objects["Deployment", "chat"]["spec"]["replicas"] == 3
    assert "park Deployment" not in await world.reconcile()
    world.happen(kinds.DEPLOYMENT, "chat", spec={"replicas": 5})
    calls = await world.reconcile()
    assert "park Deployment" not in calls
    assert world.api.objects["Deployment", "chat"]["spec"]["replicas"] == 5, "the autoscaler's"


async def test_what_is_asked_for_no_more_is_deleted_and_caches_are_kept() -> None:
    world = World(autoscaling={"maxReplicas": 5}, monitoring={"dashboard": True})
    await world.reconcile()
    world.ask(cache={"ephemeral": True})
    calls = await world.reconcile()
    deleted = {call for call in calls if call.startswith("delete")}
    expected = {"HorizontalPodAutoscaler", "PodDisruptionBudget", "ConfigMap", "Job"}
    assert deleted == {f"delete {kind}" for kind in expected}
    assert ("PersistentVolumeClaim", "chat-cache") in world.api.objects


async def test_what_another_controls_meanwhile_is_not_deleted() -> None:
    world = World(monitoring={"dashboard": True})
    await world.reconcile()
    world.happen(kinds.CONFIG_MAP, "chat-dashboard", metadata={"ownerReferences": [{"uid": "u9", "controller": True}]})
    world.ask()
    assert "delete ConfigMap" not in await world.reconcile()


async def test_extras_that_the_cluster_cannot_hold_are_told_and_not_waited_for() -> None:
    world = World(monitoring={"podMonitor": True}, cache={"ephemeral": True})
    world.api.errors["apply PodMonitor"] = Blocked("CRDNotInstalled", "install its CRD")
    calls = await world.reconcile()
    assert "apply Deployment" in calls
    accepted = next(one for one in world.status["conditions"] if one["type"] == "Accepted")
    assert accepted["message"].endswith("CRDNotInstalled: PodMonitor chat: install its CRD")


async def test_a_refused_resource_changes_nothing_but_its_status() -> None:
    world = World(cache={"ephemeral": True})
    await world.reconcile()
    world.ask(engine={"extraArgs": ["--port", "1"]})
    assert await world.reconcile() == ["status", "event Warning InvalidArguments"]
    assert ("Deployment", "chat") in world.api.objects


async def test_a_spec_that_cannot_be_read_is_said_once() -> None:
    """Stored before a rule of the schema was there."""
    world = World()
    world.ask(replicas="many")
    assert await world.reconcile() == ["status"]
    assert world.status["phase"] == "Refused"
    assert await world.reconcile() == []


@pytest.mark.parametrize("deleted", [True, False])
async def test_what_is_going_is_left_to_the_garbage_collector(deleted: bool) -> None:  # noqa: FBT001
    world = World()
    if deleted:
        del world.api.objects["VLLMDeployment", "chat"]
    else:
        world.api.objects["VLLMDeployment", "chat"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert await world.fail(Gone) == []
