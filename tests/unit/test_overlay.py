"""The pod template's overlay is a strategic merge; tests/cluster/test_overlay.py shows that kubectl merges alike."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlays import BASE, CASES, SIDECAR
from planning import manifests_of, plan_of, pod_of, spec_of
from vllm_operator.render.overlay import strategic_merge


def at(value: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    for step in path.split("."):
        value = value[int(step) if step.isdigit() else step]
    return value


@pytest.mark.parametrize("case", CASES)
def test_an_overlay_is_a_strategic_merge(case: str) -> None:
    patch, path, expected = CASES[case]
    base, asked = copy.deepcopy(BASE), copy.deepcopy(patch)
    assert at(strategic_merge(base, asked), path) == expected
    assert (base, asked) == (BASE, patch), "neither is changed"


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["a", "env", "containers", "name", "$patch", "$retainKeys"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=20)
@given(st.dictionaries(st.sampled_from(["spec", "metadata", "env", "x"]), json_values, max_size=3))
def test_any_json_can_be_laid_over(patch: dict[str, Any]) -> None:
    """What is not a pod template is for the API server to refuse, not a reason to fall over."""
    once = strategic_merge(BASE, patch)
    assert strategic_merge(BASE, patch) == once


def test_an_empty_overlay_changes_nothing() -> None:
    assert strategic_merge(BASE, {}) == BASE
    assert pod_of(spec_of(podTemplate={})) == pod_of(spec_of())


def test_our_labels_and_annotations_cannot_be_overlaid() -> None:
    """Selectors and events find pods by them."""
    forged = {"app.kubernetes.io/instance": "other", "team": "a"}
    overlay = {"metadata": {"labels": forged, "annotations": {"vllm-operator.dev/resource": "other", "note": "b"}}}
    plain = manifests_of(plan_of(spec_of()))["Deployment"]["spec"]["template"]["metadata"]
    found = manifests_of(plan_of(spec_of(podTemplate=overlay)))["Deployment"]["spec"]["template"]["metadata"]
    assert found["labels"] == {**plain["labels"], "team": "a"}
    assert found["annotations"] == {**plain["annotations"], "note": "b"}


def test_the_server_stays_the_first_container() -> None:
    overlay = {"spec": {"containers": [SIDECAR, {"name": "vllm", "tty": True}]}}
    containers = pod_of(spec_of(podTemplate=overlay))["containers"]
    assert [container["name"] for container in containers] == ["vllm", "log"]
    assert containers[0]["tty"]


@pytest.mark.parametrize(
    ("overlay", "field"),
    [
        ({"containers": []}, "spec.podTemplate.containers"),
        ({"metadata": None}, "spec.podTemplate.metadata"),
        ({"metadata": "x"}, "spec.podTemplate.metadata"),
        ({"metadata": {"labels": ["x"]}}, "spec.podTemplate.metadata.labels"),
        ({"metadata": {"annotations": "x"}}, "spec.podTemplate.metadata.annotations"),
        ({"spec": []}, "spec.podTemplate.spec"),
        ({"spec": 7}, "spec.podTemplate.spec"),
    ],
)
def test_what_is_no_pod_template_is_refused(overlay: dict[str, Any], field: str) -> None:
    refusal = plan_of(spec_of(podTemplate=overlay)).refusal
    assert refusal is not None
    assert (refusal.condition, refusal.reason) == ("Accepted", "InvalidPodTemplate")
    assert [problem.field for problem in refusal.problems] == [field]


@pytest.mark.parametrize("name", [["vllm"], {"a": "b"}, None, 1.5])
def test_items_without_a_usable_key_are_left_to_the_api_server(name: object) -> None:
    items = [{"name": name}]
    assert strategic_merge({"containers": [{"name": "vllm"}]}, {"containers": items}) == {"containers": items}
