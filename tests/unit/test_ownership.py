"""When an apply would change nothing: all that is ours of the live object is what the manifest asks for."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from objects import fields_v1
from planning import manifests_of, plan_of, spec_of
from vllm_operator.kinds import CLAIM, DEPLOYMENT, SERVICE
from vllm_operator.naming import FIELD_MANAGER, REPAIR_MANAGER, SERVER_CONTAINER, Key
from vllm_operator.observed import Observed, Ref, live_claim, live_workload, reduce
from vllm_operator.ownership import extract, manifest_digest, owned_digest

KEY = Key("team-a", "chat")
REF: Ref = (DEPLOYMENT, "team-a", "chat")
Object = dict[str, Any]


def entry(fields: Object, manager: str = FIELD_MANAGER, **more: str) -> Object:
    return {"manager": manager, "operation": "Apply", "fieldsV1": fields, **more}


def live(version: int, manifest: Object, *held: Object, **changes: Any) -> Object:  # noqa: ANN401
    """The object as the API server answers, with some of its parts changed; `held`: other fields of ours than all."""
    metadata = {**manifest["metadata"], "uid": "u1", "resourceVersion": str(version), **changes.pop("metadata", {})}
    metadata["managedFields"] = list(held) or [entry(fields_v1(manifest))]
    return {**manifest, "metadata": metadata, **changes}


def deployment(**fields: Any) -> Object:  # noqa: ANN401 - fields of a spec
    return manifests_of(plan_of(spec_of(**fields)))["Deployment"]


PLAIN = deployment()
ANNOTATIONS = PLAIN["metadata"]["annotations"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"replicas": 1}},
        {"metadata": {"generation": 2, "annotations": {**ANNOTATIONS, "deployment.kubernetes.io/revision": "2"}}},
        {"metadata": {"labels": {**PLAIN["metadata"]["labels"], "team": "a"}}},
        {"spec": {**PLAIN["spec"], "paused": True}},
    ],
    ids=["status", "a controller's annotation", "somebody's label", "somebody's field"],
)
def test_what_others_add_is_not_ours(change: Object) -> None:
    assert owned_digest(live(2, PLAIN, **change)) == owned_digest(live(1, PLAIN)) == manifest_digest(PLAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {**PLAIN["spec"], "replicas": 7}},
        {"metadata": {"labels": {}}},
        {"metadata": {"annotations": {}}},
        {"metadata": {"ownerReferences": []}},
    ],
    ids=["a value", "labels", "annotations", "the owner"],
)
def test_a_change_of_what_is_ours_shows(change: Object) -> None:
    assert owned_digest(live(2, PLAIN, **change)) != manifest_digest(PLAIN)


def test_a_field_that_somebody_took_shows_although_its_value_came_back() -> None:
    fields = fields_v1(PLAIN)
    del fields["f:spec"]["f:replicas"]
    assert owned_digest(live(2, PLAIN, entry(fields))) != manifest_digest(PLAIN)


def test_a_field_that_we_hold_and_want_no_more_shows() -> None:
    fields = fields_v1(PLAIN) | {"f:data": {}}
    assert owned_digest(live(2, PLAIN, entry(fields), data={"a": "b"})) != manifest_digest(PLAIN)


@pytest.mark.parametrize("held", [entry(fields_v1(PLAIN), "rival"), entry(fields_v1(PLAIN), subresource="status")])
def test_what_others_hold_is_not_ours(held: Object) -> None:
    assert owned_digest(live(1, PLAIN, held)) == ""


def test_a_repair_that_was_not_ended_shows() -> None:
    held = entry(fields_v1(PLAIN)), {**entry({"f:spec": {"f:paused": {}}}, REPAIR_MANAGER), "operation": "Update"}
    assert owned_digest(live(1, PLAIN, *held)) != manifest_digest(PLAIN)


def test_lists_with_keys_are_ours_item_by_item() -> None:
    fields = {
        "f:ports": {
            'k:{"containerPort":8000,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:name": {}},
            'k:{"containerPort":9000,"protocol":"TCP"}': {".": {}, "f:containerPort": {}},
        },
        "f:finalizers": {'v:"ours"': {}},
        "f:args": {},
        "f:gone": {"f:part": {}},
    }
    ports = [
        {"containerPort": 1, "protocol": "TCP"},
        {"containerPort": 8000, "protocol": "TCP", "name": "http", "hostPort": 1},
        {"containerPort": 9000, "protocol": "UDP"},
    ]
    found = extract({"ports": ports, "finalizers": ["ours", "theirs"], "args": ["a", "b"], "gone": "text"}, fields)
    assert found == {
        "ports": [{"containerPort": 8000, "name": "http"}],
        "finalizers": ["ours"],
        "args": ["a", "b"],
        "gone": None,
    }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            {"resources": {"limits": {"memory": "1024Mi", "cpu": 2}}},
            {"resources": {"limits": {"memory": "1Gi", "cpu": "2"}}},
        ),
        ({"sizeLimit": "2000m"}, {"sizeLimit": "2"}),
        ({"ports": [{"port": 80}]}, {"ports": [{"port": 80, "protocol": "TCP"}]}),
        ({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A"}]}),
        ({"fieldRef": {"fieldPath": "a"}}, {"fieldRef": {"fieldPath": "a", "apiVersion": "v1"}}),
    ],
    ids=["resources", "size", "protocol", "empty", "version"],
)
def test_two_spellings_of_one_thing_are_equal(ours: Object, theirs: Object) -> None:
    assert manifest_digest({"spec": ours}) == manifest_digest({"spec": theirs})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"from": [{"podSelector": {}}]}, {"from": [{}]}),
        ({"replicas": 0}, {}),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1m"}}),
        ({"text": "1024Mi"}, {"text": "1Gi"}),
    ],
)
def test_different_things_are_not(one: Object, other: Object) -> None:
    assert manifest_digest({"spec": one}) != manifest_digest({"spec": other})


def test_an_apply_is_skipped_while_both_sides_stand() -> None:
    observed = Observed()
    assert not observed.is_current(REF, PLAIN)
    observed.see(KEY, REF, live(5, PLAIN))
    assert observed.is_current(REF, PLAIN), "no apply of this process is needed to know"
    assert not observed.is_current(REF, deployment(replicas=2)), "another wish"
    observed.see(KEY, REF, live(7, PLAIN, spec={**PLAIN["spec"], "replicas": 7}))
    assert not observed.is_current(REF, PLAIN), "drift"
    observed.see(KEY, REF, live(8, PLAIN))
    assert observed.is_current(REF, PLAIN), "somebody put it back"
    observed.forget(KEY, REF)
    assert not observed.is_current(REF, PLAIN)


def test_what_the_api_server_writes_in_another_way_is_applied_once() -> None:
    observed, written = Observed(), copy.deepcopy(PLAIN)
    written["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "as it likes"
    observed.see(KEY, REF, live(5, written))
    assert not observed.is_current(REF, PLAIN)
    observed.applied(KEY, REF, PLAIN, live(5, written))
    assert observed.is_current(REF, PLAIN)
    observed.see(KEY, REF, live(6, PLAIN, spec={**PLAIN["spec"], "replicas": 7}))
    assert not observed.is_current(REF, PLAIN)


def test_deletions_that_the_watch_missed_are_found_in_a_listing() -> None:
    observed = Observed()
    service: Ref = (SERVICE, "team-a", "chat")
    observed.see(KEY, REF, live(1, PLAIN))
    observed.see(KEY, service, live(2, PLAIN))
    assert observed.missing_from(DEPLOYMENT, {("team-a", "chat")}) == ()
    assert observed.missing_from(DEPLOYMENT, {("team-b", "chat")}) == ((KEY, REF),)
    assert observed.missing_from(SERVICE, set()) == ((KEY, service),)


def test_an_image_that_somebody_else_set_is_not_the_one_that_was_chosen() -> None:
    held, server = fields_v1(PLAIN), json.dumps({"name": SERVER_CONTAINER})
    held["f:spec"]["f:template"]["f:spec"]["f:containers"] = {f"k:{server}": {"f:name": {}, "f:args": {}}}
    found = live_workload(reduce(live(2, PLAIN, entry(held))))
    assert (found.image, found.inputs) == ("", ANNOTATIONS["vllm-operator.dev/inputs"])
    assert live_workload(reduce(live(2, PLAIN, entry({"f:metadata": {}})))).image == ""


def test_what_planning_must_know_of_live_objects() -> None:
    found = live_workload(reduce(live(1, PLAIN)))
    template = PLAIN["spec"]["template"]
    digest = template["metadata"]["annotations"]["vllm-operator.dev/model-digest"]
    assert (found.replicas, found.owns_replicas, found.model_digest) == (1, True, digest)
    assert (found.image, found.inputs, found.claim) == (
        template["spec"]["containers"][0]["image"],
        ANNOTATIONS["vllm-operator.dev/inputs"],
        "chat-cache",
    )
    assert not live_workload(reduce(live(1, PLAIN, entry({"f:spec": {"f:template": {}}})))).owns_replicas
    manifest = manifests_of(plan_of(spec_of(cache={"size": "60Gi"})))["PersistentVolumeClaim"]
    spec = {**manifest["spec"], "storageClassName": "standard"}
    claim = live_claim(reduce(live(1, manifest, spec=spec, status={"phase": "Bound"})))
    assert (claim.size, claim.storage_class, claim.access_mode) == ("60Gi", "standard", "ReadWriteMany")
    assert (claim.bound, claim.owns_class) == (True, False)
    owned = entry({"f:spec": {"f:storageClassName": {}}})
    assert live_claim(reduce(live(2, manifest, owned, spec=spec))).owns_class
    assert Observed().of(KEY) == ()
    assert str(CLAIM) == "PersistentVolumeClaim"
