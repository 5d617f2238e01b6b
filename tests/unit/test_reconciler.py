"""The order of one pass, and what it does about refusals that are hard to provoke from a real API server.

The API server here is a dictionary. That passes work against a real one is shown in tests/cluster.
"""

from __future__ import annotations

import copy

import pytest

from localcluster.nodes import gpu_nodes
from podstatus import container, crash, pod
from vllm_operator import kinds, reconciler
from vllm_operator.diagnose import PATIENCE_SECONDS
from vllm_operator.errors import Blocked, Conflict, Gone, Transient
from vllm_operator.naming import RESOURCE_ANNOTATION, Key
from vllm_operator.scope import Scope
from world import EPHEMERAL, KEY, Object, World

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


async def test_a_new_resource_is_read_once_and_nothing_else() -> None:
    world = World()
    await world.reconcile()
    assert world.api.reads == ["get VLLMDeployment chat"]


async def test_children_that_no_watch_has_told_of_are_found_when_they_are_to_be_made() -> None:
    world = World(**EPHEMERAL)
    await world.reconcile()
    del world.api.objects["VLLMDeployment", "chat"]["status"]
    world.restart()
    await world.reconcile()
    assert found(world)[:2] == ["ServiceAccount", "Service"]
    assert not [one for one in world.api.calls if one.startswith("apply")]


async def test_after_a_restart_nothing_is_asked_for_that_would_be_a_write() -> None:
    world = World()
    await world.reconcile()
    world.restart()
    assert await world.reconcile() == []
    assert found(world) == []


async def test_what_limits_a_plan_is_found_although_nothing_speaks_of_a_former_one() -> None:
    world = World()
    await world.reconcile()
    del world.api.objects["VLLMDeployment", "chat"]["status"]
    world.restart()
    assert [one for one in await world.reconcile() if not one.startswith("event")] == ["status"]
    assert found(world) == ["ServiceAccount", "PersistentVolumeClaim", "Job", "Service"]


def found(world: World) -> list[str]:
    """Kinds of children that a pass wanted to make and that were there."""
    return [one.split()[1] for one in world.api.reads if one.startswith("find ")]


async def test_a_pass_over_what_did_not_change_asks_for_nothing() -> None:
    world = World(**EPHEMERAL)
    await world.reconcile()
    await world.reconcile()
    assert world.api.reads == []
    world.happen(kinds.DEPLOYMENT, "chat", status={"replicas": 1})
    await world.reconcile()
    assert world.api.reads == []


async def test_a_resource_that_went_unseen_does_not_get_its_children_back() -> None:
    world = World(**EPHEMERAL)
    await world.reconcile()
    del world.api.objects["VLLMDeployment", "chat"]
    deleted = world.api.objects.pop(("Deployment", "chat"))  # by the garbage collector
    world.listener.child_seen(kinds.DEPLOYMENT, "DELETED", deleted)
    assert await world.fail(Gone) == []
    assert ("Deployment", "chat") not in world.api.objects


async def test_an_edit_that_no_watch_has_told_of_is_seen_before_anything_is_written() -> None:
    world = World(**EPHEMERAL)
    await world.reconcile()
    world.write(**EPHEMERAL, replicas=2)
    deleted = world.api.objects.pop(("Deployment", "chat"))
    world.listener.child_seen(kinds.DEPLOYMENT, "DELETED", deleted)
    await world.reconcile()
    assert world.api.objects["Deployment", "chat"]["spec"]["replicas"] == 2


async def test_after_a_pass_that_failed_the_resource_is_read() -> None:
    world = World(**EPHEMERAL)
    world.api.errors["apply Service"] = Transient("502")
    await world.fail(Transient)
    await world.reconcile()
    assert "get VLLMDeployment chat" in world.api.reads


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


async def test_however_a_pass_ends_it_says_what_it_wrote() -> None:
    world = World()
    world.api.errors["apply Service"] = Blocked("QuotaExceeded", "exceeded quota: services")
    with pytest.raises(Blocked) as caught:
        await world.reconciler.reconcile(KEY)
    written = [call for call in world.api.calls if call.startswith("apply") or call == "status"]
    assert caught.value.writes == len(written) > 1
    ended = await world.reconciler.reconcile(KEY)
    assert (ended.writes, ended.phase, ended.reason) == (2, world.status["phase"], world.ready())


async def test_a_resource_that_no_rule_of_today_allows_is_told_as_refused() -> None:
    world = World()
    body = world.api.objects["VLLMDeployment", "chat"]
    nonsense = world.api.store("VLLMDeployment", "chat", {**body, "spec": {"model": {"source": "nonsense"}}})
    world.listener.resource_seen("MODIFIED", nonsense)
    ended = await world.reconciler.reconcile(KEY)
    assert (ended.writes, ended.phase, ended.reason) == (1, "Refused", "InvalidSpec")


async def test_an_edit_in_the_midst_of_a_pass_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(**EPHEMERAL)
    await world.reconcile()
    apply_status = world.api.apply_status

    async def edited_before(namespace: str, name: str, status: Object) -> Object:
        edits.append(world.write(**EPHEMERAL, replicas=2))
        return await apply_status(namespace, name, status)

    edits: list[Object] = []
    world.ask(**EPHEMERAL, replicas=3)
    due: list[Key] = []
    monkeypatch.setattr(world, "add", due.append)
    monkeypatch.setattr(world.api, "apply_status", edited_before)
    await world.reconcile()
    (edit,) = edits
    world.listener.resource_seen("MODIFIED", edit)
    assert due == [KEY], "the status was written over it, and yet nobody has looked at the edit"


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
    await world.fail(Blocked)
    assert found(world) == [], "once is enough: later it is looked at before anything is sent"
    del world.api.objects["Service", "chat"]  # of which no watch tells: it did not carry our label
    assert "apply Service" in await world.reconcile()


async def test_what_belongs_to_a_former_resource_is_looked_for_again_although_it_bears_our_mark() -> None:
    world = World()
    owner = {"controller": True, "uid": "former"}
    metadata = {"annotations": {RESOURCE_ANNOTATION: "chat"}, "ownerReferences": [owner]}
    world.api.store("Service", "chat", {"metadata": metadata})
    await world.fail(Blocked)
    assert world.ready() == "NameConflict"
    del world.api.objects["Service", "chat"]  # of which no watch tells: somebody has removed our label
    assert "apply Service" in await world.reconcile()


async def test_no_pod_stands_on_what_another_made() -> None:
    world = World()
    world.api.store("ServiceAccount", "chat", {})
    calls = await world.fail(Blocked)
    assert not {"apply Job", "apply Deployment"} & set(calls)
    assert "apply Service" in calls


async def test_no_pod_starts_unguarded() -> None:
    """Whoever asks for a policy that the API server refuses has not asked for a server that everybody may reach."""
    world = World(**EPHEMERAL, networkPolicy={})
    rejected = Blocked("Rejected", "spec.ingress[0].from[0]: Required value: must specify a peer")
    world.api.errors["apply NetworkPolicy"] = rejected
    assert "apply Deployment" not in await world.fail(Blocked)
    assert world.ready() == "Rejected"
    assert "apply Deployment" in await world.reconcile()
    world.ask(**EPHEMERAL, networkPolicy={"from": [{}]}, engine={"env": [{"name": "A", "value": "b"}]})
    world.api.errors["apply NetworkPolicy"] = Blocked("Forbidden", "a webhook says no")
    assert "apply Deployment" in await world.fail(Blocked), "the policy that there is goes on guarding"


async def test_replicas_are_parked_before_they_are_let_go() -> None:
    world = World(**EPHEMERAL, replicas=3)
    await world.reconcile()
    world.ask(**EPHEMERAL, autoscaling={"maxReplicas": 5})
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
    world.ask(**EPHEMERAL)
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
    world = World(**EPHEMERAL, monitoring={"podMonitor": True})
    calls = await world.reconcile()
    assert "apply Deployment" in calls
    assert "apply PodMonitor" not in calls
    accepted = next(one for one in world.status["conditions"] if one["type"] == "Accepted")
    said = "CRDNotInstalled: PodMonitor chat: the API server serves no PodMonitor: install its CRD"
    assert accepted["message"].endswith(said)


async def test_a_refused_resource_changes_nothing_but_its_status() -> None:
    world = World(**EPHEMERAL)
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


BAD_FLAG = "vllm serve: error: unrecognized arguments: --frobnicate"
ONE_POD = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}


async def test_a_server_that_crashes_is_diagnosed_once_and_for_all() -> None:
    world = World(**EPHEMERAL)
    await world.reconcile()
    world.happen(kinds.DEPLOYMENT, "chat", status=ONE_POD)
    world.api.logs["chat-1", "vllm", True] = BAD_FLAG
    world.see_pod(crash(1, code=2))
    calls = await world.reconcile()
    assert (calls[0], calls[-1]) == ("status", "event Warning InvalidArguments")
    assert world.ready() == "InvalidArguments"
    assert world.status["phase"] == "Starting"
    world.api.logs.clear()
    assert await world.reconcile() == [], "neither read nor told again"
    world.api.logs["chat-1", "vllm", True] = BAD_FLAG
    world.see_pod(crash(2, code=2))
    await world.reconcile()
    assert world.status["phase"] == "Degraded"
    world.see_pod(crash(3, code=2))
    assert await world.reconcile() == [], "the third time is no news"


async def test_an_edit_clears_what_the_former_template_failed_of() -> None:
    world = World(**EPHEMERAL)
    await world.reconcile()
    world.happen(kinds.DEPLOYMENT, "chat", status=ONE_POD)
    world.see_pod(crash(5, code=2))
    await world.reconcile()
    assert world.status["phase"] == "Degraded"
    world.happen(kinds.DEPLOYMENT, "chat", status={"updatedReplicas": 0})
    await world.reconcile()
    assert world.ready() == "Starting"
    world.happen(kinds.DEPLOYMENT, "chat", status=ONE_POD)
    world.see_pod(pod(container("running"), name="chat-2", template="rs-2", created="2026-01-01T01:00:00Z"))
    await world.reconcile()
    assert world.ready() == "Starting", "the new one loads"


async def test_another_look_is_asked_for_while_a_pod_is_created() -> None:
    world = World(**EPHEMERAL)
    await world.reconcile()
    assert (await world.reconciler.reconcile(KEY)).requeue_after is None
    world.see_pod(pod(container("waiting", reason="ContainerCreating")))
    wait = (await world.reconciler.reconcile(KEY)).requeue_after
    assert wait is not None
    assert 0 < wait <= PATIENCE_SECONDS


# --- what keeps a pass from being made


async def _running() -> World:
    world = World(**EPHEMERAL)
    await world.reconcile()
    rollout = {"observedGeneration": 0, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    world.happen(kinds.DEPLOYMENT, "chat", status=rollout)
    await world.reconcile()
    assert world.condition("Ready")["status"] == "True"
    return world


def _faulty_plan(*_: object) -> None:
    raise KeyError("nothing")


async def test_a_right_to_read_that_is_missing_is_said() -> None:
    world = await _running()
    world.restart()
    for _ in range(2):
        world.api.errors["get Deployment"] = Blocked("Forbidden", "The operator may not get deployments.apps")
        calls = await world.fail(Blocked)
    assert calls == [], "said once"
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "Forbidden")
    assert "deployments.apps" in ready["message"]
    assert world.condition("Reconciling")["status"] == "True"
    assert world.condition("Available")["status"] == "True", "what was said of the rest stays"
    assert (world.status["phase"], world.status["readyReplicas"]) == ("Updating", 1)
    await world.reconcile()
    assert world.condition("Ready")["status"] == "True"
    assert world.status["phase"] == "Ready"


async def test_a_request_that_fails_three_times_in_a_row_is_said() -> None:
    world = World(**EPHEMERAL)
    said = []
    for _ in range(4):
        world.api.errors["apply Service"] = Transient("PUT services: 502")
        await world.fail(Transient)
        said.append(world.ready())
    assert said == ["Starting", "Starting", "RequestFailed", "RequestFailed"]
    assert world.condition("Ready")["message"] == "Service chat: PUT services: 502"
    assert world.condition("Stalled")["status"] == "False"
    await world.reconcile()
    assert world.ready() == "Starting"
    world.happen(kinds.SERVICE, "chat", spec={"ports": []})
    world.api.errors["apply Service"] = Transient("PUT services: 502")
    await world.fail(Transient)
    assert world.ready() == "Starting", "counted anew"


async def test_an_edit_that_is_not_carried_out_yet_is_not_called_ready() -> None:
    """The old Deployment is complete, and says nothing of the edit."""
    world = World(**EPHEMERAL)
    await world.reconcile()
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    world.happen(kinds.DEPLOYMENT, "chat", status={"observedGeneration": 1, **counts})
    await world.reconcile()
    assert world.ready() == "Available"
    world.ask(**EPHEMERAL, engine={"maxSequences": 64})
    observed = []
    for _ in range(3):
        world.api.errors["apply Deployment"] = Transient("PATCH deployments: 503")
        await world.fail(Transient)
        observed.append(world.status["observedGeneration"])
    assert observed == [1, 1, 2]
    assert world.ready() == "RequestFailed"


async def test_what_lacks_a_child_does_not_become_ready() -> None:
    """Its servers run, and the Service could not be made yet."""
    world = World(**EPHEMERAL)
    world.api.errors["apply Service"] = Transient("PATCH services: 503")
    await world.fail(Transient)
    world.roll_out()
    world.api.errors["apply Service"] = Transient("PATCH services: 503")
    await world.fail(Transient)
    assert world.ready() == "Starting"
    await world.reconcile()
    assert world.ready() == "Available"
    world.lose(kinds.SERVICE, "chat")
    world.api.errors["apply Service"] = Transient("PATCH services: 503")
    await world.fail(Transient)
    assert world.ready() == "Available", "what passes takes nothing back that was said"


async def test_a_fault_of_the_operator_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await _running()
    with monkeypatch.context() as broken:
        broken.setattr(reconciler, "make_plan", _faulty_plan)
        calls = await world.fail(KeyError)
        assert calls == ["status", "event Warning InternalError"]
        assert await world.fail(KeyError) == []
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "InternalError")
    assert "KeyError: 'nothing'" in ready["message"]
    assert world.condition("Stalled")["status"] == "False"
    await world.reconcile()
    assert world.condition("Ready")["status"] == "True"


async def test_what_cannot_even_be_said_is_no_other_error(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await _running()
    monkeypatch.setattr(reconciler, "make_plan", _faulty_plan)
    world.api.errors["status"] = Transient("502")
    assert await world.fail(KeyError) == []


async def test_a_kind_that_may_not_be_listed_keeps_no_other_from_being_healed() -> None:
    world = await _running()
    del world.api.objects["Deployment", "chat"]  # which no watch tells
    world.api.errors["list Service"] = Blocked("Forbidden", "The operator may not list services")
    world.due.clear()
    await world.reconciler.resync(world)
    assert world.due == [KEY]
    assert "apply Deployment" in await world.reconcile()


async def test_a_node_that_vanished_unseen_is_offered_until_everything_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(**EPHEMERAL, sizing={"mode": "Strict"})
    for product in ("NVIDIA-L4", "NVIDIA-A100-SXM4-80GB"):
        (node,) = gpu_nodes(product, 4, 1, product)
        world.api.objects["Node", product] = node | {"metadata": {**node["metadata"], "name": product}}
    await world.reconciler.start(Scope())
    await world.reconcile()
    assert world.status["sizing"]["gpu"] == "NVIDIA-L4"
    del world.api.objects["Node", "NVIDIA-L4"]
    assert await world.reconcile() == []
    due: list[Key] = []
    monkeypatch.setattr(world, "add_after", lambda key, _: due.append(key))
    await world.reconciler.resync(world)
    assert due == [KEY]
    await world.reconcile()
    assert world.status["sizing"]["gpu"] == "NVIDIA-A100-SXM4-80GB"


async def test_a_look_at_everything_asks_once_for_each_kind_and_for_nodes_where_there_are_any() -> None:
    world = World()
    await world.reconciler.start(Scope(nodes=False))
    await world.reconciler.resync(world)
    listed = [f"names {kind}" for kind in (*kinds.CHILDREN, kinds.POD) if not kind.optional]
    assert world.api.reads == listed
    world.listener.node_seen("ADDED", gpu_nodes("NVIDIA-L4", 4, 1)[0])
    world.api.reads.clear()
    await world.reconciler.resync(world)
    assert world.api.reads == [*listed, "names Node"]


async def test_a_resync_leaves_room_for_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thousand resources need is not all due at once: whoever edits one would wait for all."""
    world = World()
    bodies = [world.write() for _ in range(3)]
    for index, body in enumerate(bodies):
        world.listener.resource_seen("ADDED", {**body, "metadata": {**body["metadata"], "name": f"chat-{index}"}})
    delays: dict[Key, float] = {}
    monkeypatch.setattr(world, "add_after", delays.__setitem__)
    world.due.clear()
    await world.reconciler.resync(world)
    assert world.due == []
    assert len(set(delays.values())) == len(delays) == 4
    assert max(delays.values()) < 1
