"""When an object is still what our last apply left behind: anything that we could own counts, bookkeeping does not."""

from __future__ import annotations

from typing import Any

import pytest

from planning import manifests_of, plan_of, spec_of
from vllm_operator.kinds import CLAIM, DEPLOYMENT, SERVICE
from vllm_operator.naming import Key
from vllm_operator.observed import Observed, Ref, fingerprint, live_claim, live_workload, reduce

KEY = Key("team-a", "chat")
REF: Ref = (DEPLOYMENT, "team-a", "chat")


def live(version: int, manifest: dict[str, Any], **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """The object as the API server answers, with some of its parts changed."""
    metadata = {**manifest["metadata"], "uid": "u1", "resourceVersion": str(version), **changes.pop("metadata", {})}
    return {**manifest, "metadata": metadata, **changes}


def deployment(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a spec
    return manifests_of(plan_of(spec_of(**fields)))["Deployment"]


PLAIN = deployment()
ANNOTATIONS = PLAIN["metadata"]["annotations"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"replicas": 1}},
        {"metadata": {"generation": 2, "managedFields": [{"manager": "kube-controller-manager"}]}},
        {"metadata": {"annotations": {**ANNOTATIONS, "deployment.kubernetes.io/revision": "2"}}},
        {"spec": {**PLAIN["spec"], "volumeName": "pv-1"}},
    ],
)
def test_bookkeeping_is_no_drift(change: dict[str, Any]) -> None:
    assert fingerprint(live(1, PLAIN)) == fingerprint(live(2, PLAIN, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {**PLAIN["spec"], "replicas": 7}},
        {"spec": {**PLAIN["spec"], "paused": True}},
        {"metadata": {"labels": {}}},
        {"metadata": {"annotations": {**ANNOTATIONS, "note": "x"}}},
        {"metadata": {"ownerReferences": []}},
    ],
)
def test_whatever_a_manifest_of_ours_could_hold_is_drift(change: dict[str, Any]) -> None:
    assert fingerprint(live(1, PLAIN)) != fingerprint(live(2, PLAIN, **change))


def test_an_apply_is_skipped_only_while_both_sides_stand() -> None:
    observed = Observed()
    assert not observed.is_current(REF, PLAIN)
    observed.applied(KEY, REF, PLAIN, live(5, PLAIN))
    assert observed.is_current(REF, PLAIN)
    assert not observed.is_current(REF, deployment(replicas=2)), "another wish"
    observed.see(KEY, REF, live(6, PLAIN, status={"replicas": 1}))
    assert observed.is_current(REF, PLAIN)
    observed.see(KEY, REF, live(7, PLAIN, spec={**PLAIN["spec"], "paused": True}))
    assert not observed.is_current(REF, PLAIN), "drift"
    observed.see(KEY, REF, live(8, PLAIN))
    assert observed.is_current(REF, PLAIN), "somebody put it back"
    observed.forget(KEY, REF)
    assert not observed.is_current(REF, PLAIN)


def test_deletions_that_the_watch_missed_are_found_in_a_listing() -> None:
    observed = Observed()
    service: Ref = (SERVICE, "team-a", "chat")
    observed.see(KEY, REF, live(1, PLAIN))
    observed.see(KEY, service, live(2, PLAIN))
    assert observed.missing_from(DEPLOYMENT, {("team-a", "chat")}) == ()
    assert observed.missing_from(DEPLOYMENT, {("team-b", "chat")}) == ((KEY, REF),)
    assert observed.missing_from(SERVICE, set()) == ((KEY, service),)


def test_what_planning_must_know_of_live_objects() -> None:
    found = live_workload(reduce(live(1, PLAIN)))
    digest = PLAIN["spec"]["template"]["metadata"]["annotations"]["vllm-operator.dev/model-digest"]
    assert (found.replicas, found.owns_replicas, found.model_digest) == (1, False, digest)
    manifest = manifests_of(plan_of(spec_of(cache={"size": "60Gi"})))["PersistentVolumeClaim"]
    spec = {**manifest["spec"], "storageClassName": "standard"}
    claim = live_claim(reduce(live(1, manifest, spec=spec, status={"phase": "Bound"})))
    assert (claim.size, claim.storage_class, claim.access_mode) == ("60Gi", "standard", "ReadWriteMany")
    assert (claim.bound, claim.owns_class) == (True, False)
    owned = [{"manager": "vllm-operator", "operation": "Apply", "fieldsV1": {"f:spec": {"f:storageClassName": {}}}}]
    again = live(2, manifest, spec=spec, metadata={"managedFields": owned})
    assert live_claim(reduce(again)).owns_class
    assert Observed().of(KEY) == ()
    assert str(CLAIM) == "PersistentVolumeClaim"
