"""What a watch event is worth: news leave a note and wake a resource, what is known already does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from localcluster.nodes import gpu_nodes
from vllm_operator.kinds import DEPLOYMENT
from vllm_operator.listener import Listener, Notes
from vllm_operator.naming import JOB_LABEL, Key, labels
from vllm_operator.plan.cache import MODEL_STEP

KEY = Key("team-a", "chat")
REF = (DEPLOYMENT, "team-a", "chat")


@dataclass
class FakeQueue:
    """Keys that were asked for since the last look."""

    woken: list[str] = field(default_factory=list)

    def add(self, key: Key) -> None:
        self.woken.append(f"{key} now")

    def add_soon(self, key: Key) -> None:
        self.woken.append(f"{key} soon")

    def add_after(self, key: Key, seconds: float) -> None:
        self.woken.append(f"{key} after {seconds:g} s")

    def take(self) -> list[str]:
        taken, self.woken = self.woken, []
        return taken


class World:
    def __init__(self) -> None:
        self.notes, self.queue = Notes(), FakeQueue()
        self.listener = Listener(self.notes, self.queue)


def resource(version: int) -> dict[str, Any]:
    return {"metadata": {"namespace": "team-a", "name": "chat", "resourceVersion": str(version)}}


def child(version: int, **metadata: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of metadata
    known = {
        "namespace": "team-a",
        "name": "chat",
        "uid": "u1",
        "resourceVersion": str(version),
        "labels": labels("chat", "server"),
        "annotations": {"vllm-operator.dev/resource": "chat"},
    }
    return {"metadata": {**known, **metadata}, "spec": {}}


def pod(name: str, reason: str = "", component: str = "server", **metadata: Any) -> dict[str, Any]:  # noqa: ANN401
    state = {"waiting": {"reason": reason, "message": "m"}} if reason else {"running": {}}
    status = {"name": "vllm", "ready": not reason, "state": state}
    return {
        **child(1, name=name, labels=labels("chat", component), **metadata),
        "status": {"containerStatuses": [status]},
    }


def test_a_resource_is_looked_at_when_it_changed_and_not_for_our_own_writes() -> None:
    world = World()
    world.listener.resource_seen("ADDED", resource(5))
    assert world.queue.take() == ["team-a/chat now"]
    world.notes.resources.see(KEY, resource(7))  # what a pass of ours left behind
    for event, version in (("MODIFIED", 5), ("MODIFIED", 7), (None, 7)):
        world.listener.resource_seen(event, resource(version))
    assert world.queue.take() == []
    world.listener.resource_seen("MODIFIED", resource(8))
    world.listener.resource_seen("DELETED", resource(6))
    assert world.queue.take() == ["team-a/chat now"] * 2


def test_what_a_listing_brings_waits_until_all_kinds_were_listed() -> None:
    world = World()
    world.listener.resource_seen(None, resource(5))
    world.listener.child_seen(DEPLOYMENT, None, child(5))
    world.listener.pod_seen(None, pod("a", "ImagePullBackOff"))
    assert world.queue.take() == ["team-a/chat after 180 s"] * 3, "a kind that cannot be listed keeps it no longer"
    world.listener.all_listed()
    assert world.queue.take() == ["team-a/chat after 0.5 s"], "each once"


def test_news_wait_for_no_listing() -> None:
    world = World()
    world.listener.resource_seen("ADDED", resource(5))
    assert world.queue.take() == ["team-a/chat now"]
    world.listener.all_listed()
    assert world.queue.take() == []


def test_what_a_later_listing_brings_waits_for_its_siblings() -> None:
    world = World()
    world.listener.all_listed()
    world.listener.resource_seen(None, resource(5))
    world.listener.child_seen(DEPLOYMENT, None, child(5))
    assert world.queue.take() == ["team-a/chat after 0.5 s"] * 2


def test_a_child_that_changed_is_noted_and_bursts_are_waited_out() -> None:
    world = World()
    world.listener.child_seen(DEPLOYMENT, "ADDED", child(5))
    assert world.queue.take() == ["team-a/chat soon"]
    world.listener.child_seen(DEPLOYMENT, "MODIFIED", child(5))
    world.listener.child_seen(DEPLOYMENT, "MODIFIED", child(4))
    assert world.queue.take() == []
    world.listener.child_seen(DEPLOYMENT, "DELETED", child(6))
    assert world.queue.take() == ["team-a/chat now"], "it is put back at once"
    assert world.notes.observed.get(REF) is None


def test_a_child_is_known_by_its_name_even_when_its_marks_are_spoiled() -> None:
    world = World()
    world.listener.child_seen(DEPLOYMENT, "ADDED", child(5))
    world.queue.take()
    world.listener.child_seen(DEPLOYMENT, "MODIFIED", child(6, annotations={}) | {"spec": {"replicas": 3}})
    assert world.queue.take() == ["team-a/chat soon"]


def test_what_controllers_note_of_their_steps_wakes_nobody() -> None:
    world = World()
    world.listener.child_seen(DEPLOYMENT, "ADDED", child(5))
    world.queue.take()
    condition = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}
    steps: tuple[tuple[dict[str, Any], bool], ...] = (
        ({"terminatingReplicas": 1}, False),
        ({"replicas": 1, "unavailableReplicas": 1}, True),
        ({"replicas": 1, "conditions": [condition]}, True),
        ({"replicas": 1, "conditions": [condition | {"lastUpdateTime": "2026-01-01T00:00:00Z"}]}, False),
        ({"replicas": 1, "readyReplicas": 1, "conditions": [condition]}, True),
    )
    for version, (status, news) in enumerate(steps, 6):
        world.listener.child_seen(DEPLOYMENT, "MODIFIED", child(version) | {"status": status})
        assert world.queue.take() == ["team-a/chat soon"] * news, status
        seen = world.notes.observed.get(REF)
        assert seen
        assert seen.version == version


def test_a_stranger_with_our_label_wakes_nobody() -> None:
    world = World()
    world.listener.child_seen(DEPLOYMENT, "ADDED", child(5, annotations={}))
    world.listener.pod_seen("ADDED", pod("x", "ErrImagePull", annotations={}))
    assert world.queue.take() == []


def test_only_the_troubles_of_pods_are_news() -> None:
    world = World()
    world.listener.pod_seen("ADDED", pod("b"))
    assert world.queue.take() == []
    world.listener.pod_seen("MODIFIED", pod("b", "ErrImagePull"))
    world.listener.pod_seen("MODIFIED", pod("a", "CreateContainerConfigError"))
    assert world.queue.take() == ["team-a/chat soon"] * 2
    world.listener.pod_seen("MODIFIED", pod("a", "CreateContainerConfigError"))
    assert world.queue.take() == []
    trouble = world.notes.trouble(KEY, "server")
    assert trouble is not None
    assert trouble.reason == "CreateContainerConfigError", "the first by name, so that the answer is stable"
    world.listener.pod_seen("MODIFIED", pod("a"))
    world.listener.pod_seen("DELETED", pod("b", "ErrImagePull"))
    assert world.queue.take() == ["team-a/chat soon"] * 2
    assert world.notes.trouble(KEY, "server") is None


def test_servers_and_preload_have_troubles_of_their_own() -> None:
    world = World()
    world.listener.pod_seen("ADDED", pod("p", "ErrImagePull", "preload"))
    assert world.notes.trouble(KEY, "server") is None
    found = world.notes.trouble(KEY, "preload")
    assert found is not None
    assert found.message.endswith('(state: "ImagePullBackOff: m")')


def test_of_pods_that_vanished_unseen_nothing_is_left() -> None:
    world = World()
    ready = {"podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}]}
    world.listener.pod_seen("ADDED", pod("server") | {"status": ready})
    world.listener.pod_seen("ADDED", pod("sick", "ErrImagePull"))
    loads = pod("loads", component="preload")
    loads["metadata"]["labels"] |= {JOB_LABEL: "job"}
    loads["status"]["containerStatuses"][0]["name"] = MODEL_STEP
    world.listener.pod_seen("ADDED", loads)
    ended = child(1, name="ended", labels={**labels("chat", "preload"), JOB_LABEL: "job"})
    ended["metadata"]["ownerReferences"] = [{"kind": "Job", "uid": "j1", "controller": True}]
    world.listener.pod_seen("ADDED", ended | {"status": {"phase": "Succeeded"}})
    pods = world.notes.all_pods()
    assert pods == {("team-a", name) for name in ("server", "sick", "loads", "ended")}
    world.notes.drop_pods({("team-b", name) for _, name in pods})
    assert (world.notes.address(KEY), world.notes.loading(KEY)) == ("10.0.0.9", "loads")
    assert world.notes.outcome(KEY, "j1")
    assert world.notes.trouble(KEY, "server")
    world.notes.drop_pods(pods)
    assert (world.notes.address(KEY), world.notes.loading(KEY)) == ("", "")
    assert world.notes.outcome(KEY, "j1") is None
    assert world.notes.trouble(KEY, "server") is None
    assert world.notes.all_pods() == set()


def test_a_pod_that_is_going_has_no_trouble() -> None:
    world = World()
    world.listener.pod_seen("MODIFIED", pod("a", "CrashLoopBackOff", deletionTimestamp="2026-01-01T00:00:00Z"))
    assert world.queue.take() == []


def test_nodes_wake_every_resource_when_they_change_what_is_offered() -> None:
    world = World()
    for key in (KEY, Key("team-b", "other")):
        world.notes.resources.see(key, resource(1))
    (node,) = gpu_nodes("NVIDIA-L4", 4, 1)
    world.listener.node_seen("ADDED", node)
    assert sorted(world.queue.take()) == ["team-a/chat soon", "team-b/other soon"]
    world.listener.node_seen("MODIFIED", node)
    assert world.queue.take() == []
    world.listener.node_seen("DELETED", node)
    assert len(world.queue.take()) == 2


def test_a_resource_that_is_gone_leaves_nothing_behind() -> None:
    world = World()
    world.notes.resources.see(KEY, resource(7))
    world.listener.pod_seen("ADDED", pod("a", "ErrImagePull"))
    world.notes.forget(KEY)
    assert world.notes.trouble(KEY, "server") is None
    world.listener.resource_seen("ADDED", resource(3))
    assert world.queue.take()[-1] == "team-a/chat now", "another resource of the name starts anew"
