"""What others change in the operator's children is put right; what others add to them stays."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from cluster.support.api import Api, ApiError, Manifest, kind_of, path_of
from cluster.support.covering import differences
from cluster.support.fixtures import Create
from cluster.support.owned import Field, content, owned_fields, owned_values, spoilers
from cluster.support.service import CACHED, Service
from localcluster.wait import wait_for
from vllm_operator import kinds
from vllm_operator.kinds import Kind
from vllm_operator.naming import REPAIR_MANAGER

# So many resources are spoiled side by side.
LANES = 8
PROMISED_SECONDS = 10.0
REPAIR_SECONDS = 60.0  # a machine that is busy with other tests gets more, unless all is held to what is promised


@pytest.fixture(autouse=True)
def _promised(monkeypatch: pytest.MonkeyPatch, *, full_length: bool) -> None:
    if full_length:
        monkeypatch.setitem(globals(), "REPAIR_SECONDS", PROMISED_SECONDS)


# Every kind of child but those of an autoscaled resource; no pods, so that a spoiled template starts nothing.
RICH: Mapping[str, Any] = {
    "gpu": {"count": 1, "product": "NVIDIA-GeForce-RTX-4090"},
    "engine": {"env": [{"name": "GREETING", "value": "hello"}]},
    "model": {"tokenSecretRef": {"name": "hf-token"}},
    "auth": {"apiKeySecretRef": {"name": "vllm-api-key"}},
    "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]},
    "service": {"annotations": {"example.com/balancer": "internal"}},
    "monitoring": {"dashboard": True},
    "replicas": 0,
}
SCALED: Mapping[str, Any] = {"autoscaling": {"minReplicas": 1, "maxReplicas": 3}}

AUTOSCALED = {"HorizontalPodAutoscaler", "PodDisruptionBudget"}

# What the API server lets nobody spoil, at least not alone, as patterns of paths.
_SERVER = r"\.spec\.template\.spec\.containers\[0\]"
IMMUTABLE = {
    "PersistentVolumeClaim": r"\.spec\.accessModes",
    "Job": r"\.spec\.(template|podFailurePolicy)\.",
    "Service": r"\.spec\.ports\[0\]$",  # there must be one; see TOGETHER
    "Deployment": "|".join(
        (
            r"\.spec\.selector",
            r"\.spec\.template\.metadata\.labels\.",  # what the selector selects
            r"\.spec\.strategy\.type$",  # see TOGETHER
            rf"{_SERVER}$",  # there must be one
            r"\.spec\.template\.spec\.volumes\[",  # a volume is needed by its mounts,
            rf"{_SERVER}\.volumeMounts\[\d+\]\.name$",  # and a mount needs its volume
            rf"{_SERVER}\.resources\.limits\.nvidia\.com/gpu$",  # equals the request; see TOGETHER
        )
    ),
}
# What cannot be taken back: claims do not shrink.
LASTING = {"PersistentVolumeClaim": r"\.spec\.resources\.requests\.storage"}
# Changes that only hold together, or that put somebody else's list item in the place of ours.
_GPU = "/spec/template/spec/containers/0/resources/{}/nvidia.com~1gpu"
TOGETHER: Sequence[tuple[str, Sequence[tuple[str, object]]]] = (
    ("Service", [("/spec/ports/0/port", 8080)]),
    ("Deployment", [("/spec/template/spec/containers/0/ports/0/containerPort", 8001)]),
    ("Deployment", [(_GPU.format("limits"), "2"), (_GPU.format("requests"), "2")]),
    ("Deployment", [("/spec/strategy", {"type": "Recreate"})]),
    ("Deployment", [("/metadata/ownerReferences/0/controller", False)]),
)


def _target(one: Manifest) -> tuple[Kind, str, str]:
    return kind_of(one), one["metadata"]["namespace"], one["metadata"]["name"]


def _live(api: Api, one: Manifest) -> Manifest:
    kind, namespace, name = _target(one)
    found = api.get(kind, namespace, name)
    assert found is not None, f"{kind} {name} is gone"
    return found


def _child(service: Service, kind: str) -> Manifest:
    (found,) = (one for one in service.children() if one["kind"] == kind)
    return found


def _spoil(api: Api, before: Manifest, field: Field) -> bool:
    """Spoil a field in the first way that the API server takes; false when it takes none."""
    for patch in spoilers(field, before):
        try:
            after = api.edit(*_target(before), patch)
        except ApiError:
            continue
        if content(after) != content(before):
            return True
    return False


def _is_repaired(api: Api, before: Manifest) -> str:
    """Wait until a child is what it was; what differs otherwise."""
    try:
        wait_for(lambda: content(_live(api, before)) == content(before), REPAIR_SECONDS)
    except TimeoutError:
        return "; ".join(differences(content(before), content(_live(api, before)))) or "something was added"
    return ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Which fields were spoiled and came back, which did not, and which could not be spoiled."""

    repaired: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    immutable: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.repaired.extend(other.repaired)
        self.lost.extend(other.lost)
        self.immutable.extend(other.immutable)


def _spoil_in_turn(api: Api, child: Manifest, fields: Sequence[Field]) -> Outcome:
    outcome = Outcome()
    before = _live(api, child)
    for one in fields:
        if not _spoil(api, before, one):
            outcome.immutable.append(str(one))
        elif lost := _is_repaired(api, before):
            outcome.lost.append(f"{one}: {lost}")
        else:
            outcome.repaired.append(str(one))
    return outcome


def _spoil_side_by_side(api: Api, services: Sequence[Service], kind: str, every: int) -> Outcome:
    """Spoil owned fields of a kind of child, one of `every` so many, each in one of equal resources."""
    children = [_child(service, kind) for service in services]
    fields = owned_fields(children[0])[::every]
    with ThreadPoolExecutor(len(children)) as threads:
        shares = [fields[lane :: len(children)] for lane in range(len(children))]
        outcome = Outcome()
        for one in threads.map(partial(_spoil_in_turn, api), children, shares):
            outcome.add(one)
    return outcome


def _managers(api: Api, one: Manifest) -> set[str]:
    """Whoever owns a field of the child."""
    return {entry["manager"] for entry in _live(api, one)["metadata"]["managedFields"]}


def _is_forgotten(api: Api, one: Manifest) -> bool:
    """Whether the manager of repairs owns nothing any more: what it owned would never go again."""
    return REPAIR_MANAGER not in _managers(api, one)


def _unexpected(fields: Sequence[str], expected: Mapping[str, str], kind: str) -> list[str]:
    return [one for one in fields if not re.match(expected.get(kind, "nothing"), one)]


@pytest.fixture
def every(*, full_length: bool) -> int:
    """One of so many fields is spoiled: with --full-length each, else a third of them."""
    return 1 if full_length else 3


def _assert_repaired(api: Api, services: Sequence[Service], kind: str, every: int) -> None:
    outcome = _spoil_side_by_side(api, services, kind, every)
    assert _unexpected(outcome.lost, LASTING, kind) == []
    assert _unexpected(outcome.immutable, IMMUTABLE, kind) == []
    assert outcome.repaired


def test_every_owned_field_is_repaired(create: Create, api: Api, every: int) -> None:
    services = [create(f"rich-{lane}", CACHED, RICH) for lane in range(LANES)]
    for service in services:
        service.wait_ready(reason="Idle")
    found = {one["kind"] for one in services[0].children()}
    assert found == {kind.kind for kind in kinds.CHILDREN if not kind.optional} - AUTOSCALED
    for kind in sorted(found):
        _assert_repaired(api, services, kind, every)


def test_every_owned_field_of_an_autoscaled_resource_is_repaired(create: Create, api: Api, every: int) -> None:
    services = [create(f"scaled-{lane}", SCALED) for lane in range(LANES // 2)]
    for service in services:
        service.wait_ready()
    for kind in sorted(AUTOSCALED):
        _assert_repaired(api, services, kind, every)


def test_changes_that_hold_only_together_are_repaired(create: Create, api: Api) -> None:
    service = create("rich", CACHED, RICH).wait_ready(reason="Idle")
    for kind, changes in TOGETHER:
        before = _child(service, kind)
        patch = [{"op": "replace", "path": path, "value": value} for path, value in changes]
        assert content(api.edit(*_target(before), patch)) != content(before)
        assert _is_repaired(api, before) == "", f"{kind}: {changes}"
        wait_for(partial(_is_forgotten, api, before), REPAIR_SECONDS, "no trace of the repair")
    service.wait_ready(reason="Idle")
    service.edit({"engine": {"env": None}, "service": {"annotations": None}})
    service.wait_ready(reason="Idle")
    assert "GREETING" not in {one["name"] for one in service.container["env"]}, "what was repaired can go again"
    assert "example.com/balancer" not in _child(service, "Service")["metadata"]["annotations"]


def test_a_repair_that_was_broken_off_is_ended(create: Create, api: Api) -> None:
    """As when the operator is killed in the midst of it: nothing of ours differs, but its entry would stay for good."""
    service = create("plain", CACHED).wait_ready()
    before = _child(service, "Deployment")
    path = f"{path_of(*_target(before))}?fieldManager={REPAIR_MANAGER}"
    broken_off = api.call("PATCH", path, {"spec": {"minReadySeconds": 1}}, "application/merge-patch+json")
    assert REPAIR_MANAGER in {one["manager"] for one in broken_off["metadata"]["managedFields"]}
    wait_for(partial(_is_forgotten, api, before), REPAIR_SECONDS, "no trace of the repair")
    service.wait_ready()


def test_deleted_children_come_back(create: Create, api: Api) -> None:
    services = [create("rich", CACHED, RICH).wait_ready(reason="Idle"), create("scaled", SCALED).wait_ready()]
    before = [one for service in services for one in service.children()]
    assert {one["kind"] for one in before} == {kind.kind for kind in kinds.CHILDREN if not kind.optional}
    began = time.monotonic()
    for one in before:
        api.delete(*_target(one))

    def is_back(one: Manifest) -> bool:
        now = _live(api, one)
        owned = owned_values(one)
        assert now["metadata"]["uid"] != one["metadata"]["uid"], "still the old one"
        assert {path: value for path, value in owned_values(now).items() if owned.get(path) != value} == {}
        return True

    for one in before:
        wait_for(partial(is_back, one), REPAIR_SECONDS, f"{one['kind']} {one['metadata']['name']} is back")
    print(f"{len(before)} deleted children are back after {time.monotonic() - began:.1f} s")  # noqa: T201
    services[0].wait_ready(reason="Idle")
    services[0].wait("CacheReady")
    services[1].wait_ready()


def test_deletion_that_others_hold_up_is_waited_for(create: Create, api: Api, namespace: str) -> None:
    service = create("plain").wait_ready()
    before = _child(service, "Service")
    api.merge(*_target(before), {"metadata": {"finalizers": ["example.com/mine"]}})
    api.delete(*_target(before))
    assert "deletionTimestamp" in _live(api, before)["metadata"]
    service.edit({"service": {"port": 81}})
    wait_for(lambda: _live(api, before)["spec"]["ports"][0]["port"] == 81, message="an edit in the meantime")
    api.merge(*_target(before), {"metadata": {"finalizers": None}})

    def is_back() -> bool:
        now = api.get(kinds.SERVICE, namespace, "plain")
        return now is not None and now["metadata"]["uid"] != before["metadata"]["uid"]

    wait_for(is_back, message="another Service")
    service.wait_ready()


def test_status_is_repaired_but_for_conditions_of_others(create: Create, api: Api, namespace: str) -> None:
    service = create("plain").wait_ready()
    before = service.status
    other = {**before["conditions"][0], "type": "example.com/Audited"}
    spoiled = {"phase": "Refused", "replicas": 7, "conditions": [*before["conditions"], other]}
    api.merge(kinds.RESOURCE, namespace, "plain", {"status": spoiled}, "status")
    wait_for(lambda: service.status == {**before, "conditions": [*before["conditions"], other]}, message="as it was")


_MARK = {"metadata": {"labels": {"example.com/team": "a"}, "annotations": {"example.com/note": "mine"}}}
_SIDECAR = {"name": "sidecar", "image": "registry.example/sidecar:1"}
# What others add to the Deployment, beside labels and annotations.
_ADDED = (
    ("/spec/template/spec/containers/-", _SIDECAR),
    ("/spec/template/spec/containers/0/env/-", {"name": "INJECTED", "value": "yes"}),
    ("/spec/template/spec/volumes/-", {"name": "injected", "emptyDir": {}}),
    ("/spec/template/metadata/labels/example.com~1team", "a"),
    ("/spec/template/spec/containers/0/resources/requests/ephemeral-storage", "1Gi"),
)


def _spoil_marks(api: Api, children: Sequence[Manifest]) -> None:
    """Make the operator apply every child again."""
    for one in children:
        api.merge(*_target(one), {"metadata": {"labels": {"app.kubernetes.io/name": "spoiled"}}})


def test_what_others_add_stays(create: Create, api: Api) -> None:
    service = create("rich", CACHED, RICH).wait_ready(reason="Idle")
    for one in service.children():
        api.merge(*_target(one), _MARK | {"metadata": {**_MARK["metadata"], "finalizers": ["example.com/mine"]}})
    added = [{"op": "add", "path": path, "value": value} for path, value in _ADDED]
    api.edit(*_target(service.deployment), added)
    before = service.children()
    _spoil_marks(api, before)
    for one in before:
        assert _is_repaired(api, one) == "", one["kind"]
    service.edit({"engine": {"env": [{"name": "GREETING", "value": "good bye"}]}})

    def greeting() -> str:
        (found,) = (one["value"] for one in service.container["env"] if one["name"] == "GREETING")
        return str(found)

    wait_for(lambda: greeting() == "good bye", message="the edit is carried out")
    containers = service.deployment["spec"]["template"]["spec"]["containers"]
    assert [one["name"] for one in containers] == ["vllm", "sidecar"]
    assert {"name": "INJECTED", "value": "yes"} in containers[0]["env"]
    for one in service.children():
        api.merge(*_target(one), {"metadata": {"finalizers": None}})


def test_other_owners_are_kept(create: Create, api: Api, namespace: str) -> None:
    service = create("plain").wait_ready()
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}
    other = api.create(settings, namespace)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "settings", "uid": other["metadata"]["uid"]}
    before = _child(service, "Service")
    api.edit(*_target(before), [{"op": "add", "path": "/metadata/ownerReferences/-", "value": owner}])
    before = _live(api, before)
    _spoil_marks(api, [before])
    assert _is_repaired(api, before) == ""
    assert owner in _live(api, before)["metadata"]["ownerReferences"]
