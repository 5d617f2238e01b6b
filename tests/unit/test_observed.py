"""What is remembered of children: the newest word counts, whichever way it came."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_operator.kinds import CLAIM, SERVICE, Kind
from vllm_operator.naming import FIELD_MANAGER, MANAGED_BY, RESOURCE_ANNOTATION, Key
from vllm_operator.observed import Observed, Ref, claimed_by_others, may_go, reduce

KEY, OTHER = Key("team-a", "chat"), Key("team-a", "other")
REF: Ref = (SERVICE, "team-a", "chat")


def body(version: int, uid: str = "child-1", owner: str = "owner-1", **metadata: Any) -> dict[str, Any]:  # noqa: ANN401
    owners = [{"controller": True, "uid": owner}] if owner else []
    known = {"uid": uid, "resourceVersion": str(version), "ownerReferences": owners}
    return {"metadata": known | metadata, "spec": {}}


MARKS = {"labels": {MANAGED_BY: FIELD_MANAGER}, "annotations": {RESOURCE_ANNOTATION: "chat"}}
MADE = {"managedFields": [{"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:ports": {}}}}]}


def test_older_state_does_not_replace_a_newer_one() -> None:
    observed = Observed()
    observed.see(KEY, REF, body(7))
    assert observed.see(KEY, REF, body(5)).version == 7


def test_older_object_of_the_name_does_not_replace_a_newer_one() -> None:
    observed = Observed()
    observed.see(KEY, REF, body(7, uid="child-2"))
    assert observed.see(KEY, REF, body(5, uid="child-1")).uid == "child-2"


def test_answer_that_comes_after_the_deletion_is_not_believed() -> None:
    observed = Observed()
    observed.deleted(KEY, REF, version=8)
    observed.applied(KEY, REF, {"kind": "Service"}, body(7))
    assert observed.get(REF) is None
    assert observed.of(KEY) == ()
    assert not observed.is_current(REF, {"kind": "Service"})


def test_object_made_again_is_seen() -> None:
    observed = Observed()
    observed.deleted(KEY, REF, version=8)
    observed.see(KEY, REF, body(9, uid="child-2"))
    assert observed.of(KEY) == (REF,)


def test_object_that_lost_its_label_only_is_seen() -> None:
    """The API server ends such a watch with DELETED at the version that the object has now."""
    observed = Observed()
    observed.deleted(KEY, REF, version=8)
    assert observed.see(KEY, REF, body(8)) == observed.get(REF)


def test_object_belongs_to_one_resource_at_a_time() -> None:
    observed = Observed()
    observed.see(OTHER, REF, body(7))
    observed.see(KEY, REF, body(8))
    assert observed.key_of(REF) == KEY
    assert observed.of(OTHER) == ()


@pytest.mark.parametrize(
    ("owner", "metadata", "elsewhere", "free"),
    [
        ("owner-1", {}, False, True),
        ("owner-2", MARKS, False, False),
        ("", MARKS, False, True),
        ("", MARKS, True, False),
        ("", {}, False, False),
    ],
    ids=["ours", "another controls it", "retained", "retained by another", "made by hand"],
)
def test_what_may_be_written_over(owner: str, metadata: dict[str, Any], elsewhere: bool, free: bool) -> None:  # noqa: FBT001
    live = reduce(body(7, owner=owner, **metadata))
    assert bool(claimed_by_others(live, SERVICE, "owner-1", elsewhere=elsewhere)) is not free


@pytest.mark.parametrize(
    ("owner", "metadata", "kind", "goes"),
    [
        ("owner-1", {}, SERVICE, True),
        ("owner-2", MARKS | MADE, SERVICE, False),
        ("", MARKS | MADE, SERVICE, True),
        ("", MARKS | MADE, CLAIM, False),
        ("", MARKS, SERVICE, False),
    ],
    ids=["ours", "another's", "orphaned", "retained", "a copy made by hand"],
)
def test_what_may_be_deleted(owner: str, metadata: dict[str, Any], kind: Kind, goes: bool) -> None:  # noqa: FBT001
    assert may_go(reduce(body(7, owner=owner, **metadata)), kind, "owner-1") is goes
