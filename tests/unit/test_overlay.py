"""The pod template's overlay is a strategic merge, as kubectl does it; it is asked itself where it has been built."""

from __future__ import annotations

import copy
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localcluster.paths import bin_root
from localcluster.tools import TOOLS
from planning import manifests_of, plan_of, pod_of, spec_of
from vllm_operator.render.overlay import strategic_merge

BASE: dict[str, Any] = {
    "metadata": {"labels": {"app": "vllm"}},
    "spec": {
        "nodeSelector": {"gpu": "L4"},
        "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "cache", "persistentVolumeClaim": {"claimName": "chat-cache"}},
        ],
        "containers": [
            {
                "name": "vllm",
                "image": "vllm:1",
                "args": ["a", "b"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 8000, "name": "http"}],
                "volumeMounts": [{"mountPath": "/cache", "name": "cache"}],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            }
        ],
    },
}
SIDECAR = {"name": "log", "image": "log:1"}


def server(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a container
    return {"spec": {"containers": [{"name": "vllm", **fields}]}}


# Patch, where to look in the result, what must be there.
CASES: dict[str, tuple[dict[str, Any], str, Any]] = {
    "labels are added": ({"metadata": {"labels": {"team": "a"}}}, "metadata.labels", {"app": "vllm", "team": "a"}),
    "null removes a field": (
        {"spec": {"securityContext": {"fsGroup": None}}},
        "spec.securityContext",
        {"runAsUser": 1000},
    ),
    "null removes what is not there": ({"spec": {"affinity": {"x": None}, "hostname": None}}, "spec.affinity", {}),
    "a new map keeps no nulls": (
        {"spec": {"dnsConfig": {"a": None, "b": {"c": 1}}}},
        "spec.dnsConfig",
        {"b": {"c": 1}},
    ),
    "$patch replaces a map": (
        {"spec": {"nodeSelector": {"$patch": "replace", "b": "c"}}},
        "spec.nodeSelector",
        {"b": "c"},
    ),
    "a map is emptied": ({"spec": {"securityContext": {"$patch": "delete"}}}, "spec.securityContext", {}),
    "tolerations are replaced": ({"spec": {"tolerations": [{"key": "x"}]}}, "spec.tolerations", [{"key": "x"}]),
    "args are replaced": (server(args=["c"]), "spec.containers.0.args", ["c"]),
    "env is merged by name": (
        server(env=[{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]),
        "spec.containers.0.env",
        [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
    ),
    "env is taken away by name": (
        server(env=[{"name": "A", "$patch": "delete"}, {"name": "Z", "$patch": "delete"}]),
        "spec.containers.0.env",
        [{"name": "B", "value": "2"}],
    ),
    "env is replaced as a whole": (
        server(env=[{"$patch": "replace"}, {"name": "Z", "value": "9"}]),
        "spec.containers.0.env",
        [{"name": "Z", "value": "9"}],
    ),
    "ports are merged by number": (
        server(ports=[{"containerPort": 8000, "protocol": "TCP"}, {"containerPort": 9000}]),
        "spec.containers.0.ports",
        [{"containerPort": 8000, "name": "http", "protocol": "TCP"}, {"containerPort": 9000}],
    ),
    "mounts are merged by path": (
        server(volumeMounts=[{"mountPath": "/cache", "readOnly": True}]),
        "spec.containers.0.volumeMounts",
        [{"mountPath": "/cache", "name": "cache", "readOnly": True}],
    ),
    "resources are merged": (
        server(resources={"limits": {"cpu": "8"}}),
        "spec.containers.0.resources",
        {"limits": {"nvidia.com/gpu": "1", "cpu": "8"}},
    ),
    "a sidecar joins": ({"spec": {"containers": [SIDECAR]}}, "spec.containers.1", SIDECAR),
    "a list that was not there": ({"spec": {"initContainers": [SIDECAR]}}, "spec.initContainers", [SIDECAR]),
    "nothing is taken from nothing": (
        {"spec": {"initContainers": [{"name": "x", "$patch": "delete"}]}},
        "spec.initContainers",
        [],
    ),
    "the source of a volume is exchanged": (
        {"spec": {"volumes": [{"name": "cache", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}},
        "spec.volumes.1",
        {"name": "cache", "emptyDir": {}},
    ),
}


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


def kubectl() -> Path:
    """The kubectl of the local cluster; skips where it has not been built."""
    built = next(bin_root().glob(f"kubectl-{TOOLS['kubectl'].version}-*"), None)
    return built or pytest.skip("kubectl has not been built: see tests/localcluster/README.md")


def without_order(value: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON without the order of objects in lists: kubectl puts new items first."""
    if isinstance(value, dict):
        return {key: without_order(child) for key, child in value.items()}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return sorted((without_order(item) for item in value), key=partial(json.dumps, sort_keys=True))
    return value


def patched(program: Path, file: Path, patch: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    options = ["--local", "--type=strategic", "--output=json", f"--filename={file}"]
    asked = f"--patch={json.dumps({'template': patch})}"
    answer = subprocess.run([str(program), "patch", *options, asked], stdout=subprocess.PIPE, check=True)
    return json.loads(answer.stdout)["template"]


def test_kubectl_agrees(tmp_path: Path) -> None:
    program, file = kubectl(), tmp_path / "template.json"
    head = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
    file.write_text(json.dumps({**head, "template": BASE}))
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda case: patched(program, file, case[0]), CASES.values())
    for case, theirs in zip(CASES, answers, strict=True):
        assert without_order(strategic_merge(BASE, CASES[case][0])) == without_order(theirs), case


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
