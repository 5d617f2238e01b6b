"""The cache claim: it grows, outlives the resource or goes with it; what it cannot do is said and blocks nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cluster.support.api import Api, Manifest
from cluster.support.fixtures import Create
from cluster.support.service import CACHED, Service
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from vllm_operator import kinds
from vllm_operator.naming import controller_of

ON_FIXED_CLASS = {"cache": {"storageClassName": "fixed"}}
BLOCKED = "StorageChangeBlocked"


def _claim(service: Service) -> Manifest:
    found = service.child(kinds.CLAIM, "-cache")
    assert found is not None, f"{service} has no claim"
    return found


def _asked(service: Service) -> str:
    return str(_claim(service)["spec"]["resources"]["requests"]["storage"])


def _capacity(service: Service) -> str:
    return str(_claim(service)["status"].get("capacity", {}).get("storage"))


def _is_gone(service: Service) -> bool:
    return service.child(kinds.CLAIM, "-cache") is None


def _await_children_gone(service: Service, *left: str) -> None:
    """Wait until nothing of a deleted resource is left but the kinds named."""
    wait_for(lambda: {one["kind"] for one in service.children()} == set(left), message=f"only {left} are left")


def test_growth_is_applied(create: Create) -> None:
    service = create("web", CACHED).wait_ready()
    assert (_asked(service), _claim(service)["spec"]["storageClassName"]) == ("20Gi", "standard")
    service.edit({"cache": {"size": "30Gi"}})
    wait_for(lambda: _capacity(service) == "30Gi", message="a claim of 30Gi")
    service.wait_ready()
    assert service.says("CacheReady", "True")


def test_growth_of_a_class_that_does_not_grow_is_said_and_blocks_nothing(create: Create) -> None:
    service = create("web", CACHED, ON_FIXED_CLASS).wait_ready()
    service.edit({"cache": {"size": "30Gi"}, "engine": {"env": [{"name": "EDITED", "value": "yes"}]}})
    found = service.wait("CacheReady", "False", BLOCKED)
    assert "must support resize" in found["message"]
    service.wait_ready()
    assert {"name": "EDITED", "value": "yes"} in service.container["env"]
    assert _asked(service) == "20Gi"
    (event,) = wait_for(lambda: service.events(BLOCKED), message="an Event")
    assert event["message"] == found["message"]
    service.edit({"cache": {"size": "20Gi"}})
    service.wait("CacheReady", "True", "Preloaded")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": "10Gi"}, ["size", "20Gi", "10Gi"]),
        ({"storageClassName": "fixed"}, ["storageClassName", "standard", "fixed"]),
        ({"accessMode": "ReadWriteOnce"}, ["accessMode", "ReadWriteMany", "ReadWriteOnce"]),
        (
            {"size": "10Gi", "storageClassName": "fixed", "accessMode": "ReadWriteOnce"},
            ["size", "storageClassName", "accessMode"],
        ),
    ],
    ids=["shrink", "class", "mode", "all"],
)
def test_impossible_change_is_said_and_blocks_nothing(
    change: Mapping[str, Any], words: list[str], create: Create
) -> None:
    service = create("web", CACHED).wait_ready()
    uid = _claim(service)["metadata"]["uid"]
    service.edit({"cache": change, "engine": {"env": [{"name": "EDITED", "value": "yes"}]}})
    found = service.wait("CacheReady", "False", BLOCKED)
    assert [word for word in words if word not in found["message"]] == []
    service.wait_ready()
    assert {"name": "EDITED", "value": "yes"} in service.container["env"]
    claim = _claim(service)
    spec = claim["spec"]
    assert (spec["accessModes"], spec["storageClassName"], _asked(service)) == (["ReadWriteMany"], "standard", "20Gi")
    assert claim["metadata"]["uid"] == uid
    (event,) = wait_for(lambda: service.events(BLOCKED), message="an Event")
    assert (event["type"], event["message"]) == ("Warning", found["message"])
    service.edit({"cache": dict.fromkeys(change) | {"size": "20Gi"}})
    service.wait("CacheReady", "True", "Preloaded")


def test_claim_that_was_grown_by_hand_stays_grown(create: Create, api: Api) -> None:
    service = create("web", CACHED).wait_ready()
    patch = {"spec": {"resources": {"requests": {"storage": "25Gi"}}}}
    api.merge(kinds.CLAIM, service.namespace, "web-cache", patch)
    assert "25Gi" in service.wait("CacheReady", "False", BLOCKED)["message"]
    assert _asked(service) == "25Gi"
    service.wait_ready()
    service.edit({"cache": {"size": "25Gi"}})
    service.wait("CacheReady", "True", "Preloaded")


def test_automatic_size_follows_no_smaller_wish(create: Create) -> None:
    """The operator's own choice gives way silently to what the claim has."""
    service = create("web", CACHED, {"cache": {"size": "400Gi"}}).wait_ready()
    service.edit({"cache": {"size": "auto"}})
    service.wait("CacheReady", "True", "Preloaded")
    assert _asked(service) == "400Gi"


def test_retained_claim_stays_and_is_taken_up_again(create: Create) -> None:
    service = create("web", CACHED).wait_ready()
    before = _claim(service)
    assert controller_of(before["metadata"]) is None
    service.delete()
    _await_children_gone(service, "PersistentVolumeClaim")
    again = create("web", CACHED).wait_ready()
    claim = _claim(again)
    assert claim["metadata"]["uid"] == before["metadata"]["uid"]
    assert claim["status"]["phase"] == "Bound"


def test_claim_goes_with_the_resource_where_that_is_asked_for(create: Create) -> None:
    service = create("web", CACHED, {"cache": {"reclaimPolicy": "Delete"}}).wait_ready()
    owner = controller_of(_claim(service)["metadata"])
    assert owner is not None
    assert owner["uid"] == service.uid
    service.delete()
    _await_children_gone(service)


def test_policy_can_change_while_it_runs(create: Create) -> None:
    kept, dropped = create("kept", CACHED, {"cache": {"reclaimPolicy": "Delete"}}), create("dropped", CACHED)
    for service, policy in ((kept, "Retain"), (dropped, "Delete")):
        service.wait_ready()
        uid = _claim(service)["metadata"]["uid"]
        service.edit({"cache": {"reclaimPolicy": policy}})
        wait_for(
            lambda service=service, policy=policy: (  # type: ignore[misc]
                (controller_of(_claim(service)["metadata"]) is None) == (policy == "Retain")
            ),
            message=f"{service} has the policy {policy}",
        )
        assert _claim(service)["metadata"]["uid"] == uid
        service.wait_ready()
    kept.delete()
    dropped.delete()
    _await_children_gone(dropped)
    _await_children_gone(kept, "PersistentVolumeClaim")


def _users_claim(api: Api, namespace: str, mode: str) -> None:
    """A bound claim called `mine`."""
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": "50Gi"}}}
    own = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "mine"}, "spec": spec}
    api.create(own, namespace)
    wait_for(lambda: (api.get(kinds.CLAIM, namespace, "mine") or {})["status"]["phase"] == "Bound", message="Bound")


def _update(service: Service) -> tuple[int, int]:
    """How many pods a rollout may have beyond what is asked for, and how many less."""
    found = service.deployment["spec"]["strategy"]["rollingUpdate"]
    return found["maxSurge"], found["maxUnavailable"]


def test_a_claim_that_stays_of_one_node_still_rules_rollouts(create: Create) -> None:
    """A surge pod on another node would wait for the volume for ever."""
    service = create("web", CACHED, {"cache": {"accessMode": "ReadWriteOnce"}}).wait_ready()
    service.edit({"cache": {"accessMode": None}, "rollout": {"spareGPU": True}, "replicas": 2})
    service.wait("CacheReady", "False", BLOCKED)
    service.wait_ready()
    assert _update(service) == (0, 1)
    assert (
        "SingleNodeClaim: one node at a time can mount the claim web-cache" in service.condition("Accepted")["message"]
    )


@pytest.mark.parametrize(("mode", "expected"), [("ReadWriteOnce", (0, 1)), ("ReadWriteMany", (1, 0))])
def test_an_existing_claim_is_looked_at(
    create: Create, api: Api, namespace: str, mode: str, expected: tuple[int, int]
) -> None:
    spare = {"rollout": {"spareGPU": True}}
    service = create("web", {"cache": {"ephemeral": None, "claimName": "mine"}}, spare)
    wait_for(lambda: "Job" in {one["kind"] for one in service.children()}, message="a Job that waits for the claim")
    _users_claim(api, namespace, mode)
    service.wait_ready()
    assert _update(service) == expected


def test_existing_claim_is_used_and_never_touched(create: Create, api: Api, namespace: str) -> None:
    _users_claim(api, namespace, "ReadWriteMany")
    before = api.get(kinds.CLAIM, namespace, "mine")
    service = create("web", {"cache": {"ephemeral": None, "claimName": "mine"}}).wait_ready()
    assert service.says("CacheReady", "True", "Preloaded")
    assert _is_gone(service)
    volumes = {one["name"]: one for one in service.deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["cache"]["persistentVolumeClaim"]["claimName"] == "mine"
    service.delete()
    _await_children_gone(service)
    assert api.get(kinds.CLAIM, namespace, "mine") == before


def test_ephemeral_cache_has_neither_claim_nor_job(create: Create) -> None:
    service = create("web").wait_ready()
    assert not service.condition("CacheReady")
    assert {"PersistentVolumeClaim", "Job"} & {one["kind"] for one in service.children()} == set()


def test_retained_claim_is_left_behind_when_the_cache_becomes_ephemeral(create: Create) -> None:
    service = create("web", CACHED).wait_ready()
    uid = _claim(service)["metadata"]["uid"]
    service.edit({"cache": {"ephemeral": True, "size": None}})
    wait_for(lambda: service.jobs() == [], message="the preload Job is gone")
    service.wait_ready()
    assert _claim(service)["metadata"]["uid"] == uid
    service.edit({"cache": {"ephemeral": None, "size": "20Gi"}})
    service.wait_ready()
    assert _claim(service)["metadata"]["uid"] == uid


def test_claim_of_a_class_nobody_provides_is_said(create: Create) -> None:
    service = create("web", CACHED, {"cache": {"storageClassName": "nobody"}})
    service.wait("CacheReady", "False", "ClaimPending")
    assert service.says("Ready", "False")
    assert service.child(kinds.DEPLOYMENT) is None
    assert not service.says("Stalled", "True")


def test_class_that_waits_for_a_pod_gets_one(create: Create, kubectl: Kubectl) -> None:
    service = create("web", CACHED, {"cache": {"storageClassName": "first-consumer"}}).wait_ready()
    assert _claim(service)["status"]["phase"] == "Bound"
    service.edit({"cache": {"size": "40Gi"}})
    wait_for(lambda: _capacity(service) == "40Gi", message="a claim of 40Gi")
    kubectl("wait", "--for=condition=Ready", "vd/web", "--timeout=30s")
