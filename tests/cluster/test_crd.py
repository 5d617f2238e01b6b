"""The CRD on a real API server: what it accepts, refuses, fills in and shows is what the models say."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import Phase, given, settings

from api_verdicts import VERDICTS, Verdict, resource
from cluster.support.api import Api, ApiError, path_of
from corpus import SAMPLES, Bad, Sample, bad_resources
from corpus import samples as read_samples
from localcluster.access import ClusterAccess
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from operator_process import OperatorProcess
from strategies import spoilt_specs, valid_specs
from vllm_operator.api import GROUP, KIND, PLURAL
from vllm_operator.api.crd import COLUMNS, crd
from vllm_operator.api.parse import parse, parse_manifest
from vllm_operator.errors import InvalidSpec
from vllm_operator.kinds import RESOURCE
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.render import render

CRD = f"{PLURAL}.{GROUP}"
ROOT = Path(__file__).parents[2]
# As kubectl sends a resource by default, but that nothing is stored.
STRICT_DRY_RUN = urlencode({"dryRun": "All", "fieldValidation": "Strict"})
BY_API = bad_resources("api")
READ_SAMPLES = read_samples()
REJECTED = [bad for bad in bad_resources("condition") if bad.reason == "Rejected"]
# Every run draws the same; shrinking would ask the API server thousands of times.
DRAWN = settings(deadline=None, derandomize=True, database=None, phases=(Phase.generate,))
pytestmark = pytest.mark.usefixtures("installed")


def _try(api: Api, namespace: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Create without storing; the answer is the resource as it would be stored."""
    path = path_of(RESOURCE, namespace)
    answer: dict[str, Any] = api.call("POST", f"{path}?{STRICT_DRY_RUN}", document)
    return answer


def _refusal(api: Api, namespace: str, document: Mapping[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        _try(api, namespace, document)
    assert caught.value.code in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
    return str(caught.value)


@pytest.fixture(scope="module")
def space(cluster: ClusterAccess) -> Iterator[str]:
    """A namespace for what is never stored."""
    name = f"crd-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


# ---- the definition itself


def test_the_api_server_finds_nothing_wrong_with_it(cluster: ClusterAccess) -> None:
    stored = cluster.kubectl.json("get", "crd", CRD)
    conditions = {one["type"]: one["status"] for one in stored["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    # Both would be there, and True, where a schema is wrong in a way that is tolerated.
    assert conditions.get("NonStructuralSchema", "False") == "False"
    assert conditions.get("KubernetesAPIApprovalPolicyConformant", "True") == "True"


def test_the_stored_schema_is_the_generated_one(cluster: ClusterAccess) -> None:
    stored = cluster.kubectl.json("get", "crd", CRD)["spec"]
    for key, value in crd()["spec"].items():
        if key != "versions":
            assert stored[key] == value
    assert stored["versions"] == crd()["spec"]["versions"]


@pytest.mark.parametrize("how", [["--dry-run=server"], ["--dry-run=server", "--server-side", "--force-conflicts"]])
def test_it_applies_in_both_ways_of_kubectl(cluster: ClusterAccess, how: list[str]) -> None:
    answer = cluster.kubectl("apply", f"--filename={ROOT / 'crds'}", *how)
    assert answer.returncode == 0
    assert CRD in answer.stdout


# ---- one verdict on both sides


@pytest.mark.parametrize("sample", READ_SAMPLES, ids=lambda sample: sample.name)
def test_sample_is_accepted_and_stored_as_the_models_read_it(api: Api, space: str, sample: Sample) -> None:
    stored = _try(api, space, sample.document)
    assert parse(stored).spec == parse_manifest(sample.document).spec


@pytest.mark.parametrize("bad", BY_API, ids=lambda bad: bad.name)
def test_api_server_refuses_in_words_that_help(api: Api, space: str, bad: Bad) -> None:
    message = _refusal(api, space, bad.document)
    assert bad.says.lower() in message.lower()
    assert bad.field in message


@pytest.mark.parametrize("bad", bad_resources("condition"), ids=lambda bad: bad.name)
def test_what_a_condition_refuses_gets_past_the_schema(api: Api, space: str, bad: Bad) -> None:
    assert parse(_try(api, space, bad.document)).spec == parse_manifest(bad.document).spec


@pytest.mark.parametrize("case", VERDICTS, ids=lambda case: case.name)
def test_odd_values_get_the_verdict_of_the_models(api: Api, space: str, case: Verdict) -> None:
    sent = _as_kubectl_sends(case.document)
    if case.accepted:
        assert parse(_try(api, space, sent)).spec == parse_manifest(case.document).spec
    else:
        _refusal(api, space, sent)


def test_any_spoilt_spec_gets_the_verdict_of_the_models(api: Api, space: str) -> None:
    verdicts: list[bool] = []

    @settings(DRAWN, max_examples=150)
    @given(spoilt_specs())
    def draw(raw: dict[str, Any]) -> None:
        document = resource(raw)
        try:
            spec = parse_manifest(document).spec
        except InvalidSpec:
            _refusal(api, space, _as_kubectl_sends(document))
        else:
            assert parse(_try(api, space, _as_kubectl_sends(document))).spec == spec
            verdicts.append(True)

    draw()
    assert 10 < len(verdicts) < 200  # of both kinds


def _as_kubectl_sends(value: Any) -> Any:  # noqa: ANN401 - any part of a resource
    """2.0 as 2, which the API server does not do itself."""
    if isinstance(value, dict):
        return {key: _as_kubectl_sends(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_as_kubectl_sends(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def test_kubectl_sends_whole_numbers_without_a_point(kubectl: Kubectl) -> None:
    document = resource({"model": {"source": "hf://a/b"}, "replicas": 2.0, "gpu": {"count": 1.0}})
    stored = kubectl.apply(document, "--dry-run=server", "--output=json")
    assert parse(json.loads(stored.stdout)).spec == parse_manifest(document).spec


def test_any_valid_spec_is_accepted_and_its_defaults_are_those_of_the_models(api: Api, space: str) -> None:
    @settings(DRAWN, max_examples=40)
    @given(valid_specs())
    def draw(raw: dict[str, Any]) -> None:
        document = resource(raw)
        stored = _try(api, space, document)
        assert parse(stored).spec == parse_manifest(document).spec
        dumped = parse(stored).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        assert _known(dumped, stored["spec"]) == dumped

    draw()


def _known(ours: Any, theirs: Any) -> Any:  # noqa: ANN401 - any part of a spec
    """`theirs` where it differs from `ours`, but for quantities (5 and "5") and empty objects (absent)."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() >= theirs.keys():
        missing: dict[str, Any] = {name: {} for name, child in ours.items() if child == {}}
        return missing | {name: _known(ours[name], child) for name, child in theirs.items()}
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [_known(one, other) for one, other in zip(ours, theirs, strict=True)]
    return ours if isinstance(ours, str) and str(theirs) == ours else theirs


@pytest.mark.parametrize(
    "patch", [{"autoscaling": {"maxReplicas": 3}, "replicas": 2}, {"engine": {"image": "vllm:latest"}}], ids=str
)
def test_rules_hold_for_changes_too(api: Api, namespace: str, patch: dict[str, Any]) -> None:
    api.create(resource({"model": {"source": "hf://a/b"}}, "x"), namespace)
    with pytest.raises(ApiError) as caught:
        api.merge(RESOURCE, namespace, "x", {"spec": patch})
    assert caught.value.code == HTTPStatus.UNPROCESSABLE_ENTITY
    with pytest.raises(InvalidSpec):
        parse(resource({"model": {"source": "hf://a/b"}, **patch}))


@pytest.mark.parametrize("bad", REJECTED, ids=lambda bad: bad.name)
def test_api_server_rejects_the_child_that_a_condition_reports(kubectl: Kubectl, namespace: str, bad: Bad) -> None:
    plan = make_plan(parse_manifest(bad.document, namespace), Defaults(), Facts())
    answer = kubectl(
        "apply", "--server-side", "--dry-run=server", "--filename=-", input=list(render(plan)), check=False
    )
    assert answer.returncode != 0
    assert bad.says in answer.stderr


# ---- kubectl


@pytest.mark.parametrize("how", [[], ["--server-side"]], ids=["client-side", "server-side"])
def test_kubectl_applies_every_sample(kubectl: Kubectl, how: list[str]) -> None:
    answer = kubectl("apply", f"--filename={SAMPLES}", "--dry-run=server", "--output=name", *how)
    names = {line.rpartition("/")[2] for line in answer.stdout.splitlines()}
    assert names == {sample.name for sample in READ_SAMPLES}


def test_kubectl_names_a_misspelt_field(kubectl: Kubectl) -> None:
    spec = {"model": {"source": "hf://a/b"}, "gpu": {"cuont": 2}}
    answer = kubectl("apply", "--filename=-", input=resource(spec), check=False)
    assert answer.returncode != 0
    # The API server's words, or kubectl's own where it checks against the published schema.
    assert re.search(r'unknown field "(spec.gpu.cuont|cuont" in .*VLLMDeployment.spec.gpu)', answer.stderr)


def test_kubectl_explains_fields(kubectl: Kubectl) -> None:
    def explained() -> str:
        return " ".join(kubectl("explain", "vllmdeployment.spec.gpu.count", check=False).stdout.split())

    # The API server publishes the schema of a new CRD a moment after it is established.
    wait_for(
        lambda: "GPUs per replica, or auto: the fewest that hold the model. 0 runs vLLM's CPU backend." in explained(),
        message="kubectl explain",
    )
    recursive = kubectl("explain", "vllmdeployment.spec", "--recursive").stdout
    assert "startupTimeoutSeconds" in recursive


@pytest.mark.parametrize("word", ["vllmdeployment", "vllmdeployments", "vd", "vllm", f"vd.v1alpha1.{GROUP}"])
def test_kubectl_knows_its_names(kubectl: Kubectl, word: str) -> None:
    kubectl.apply(resource({"model": {"source": "hf://a/b"}, "suspend": True}, "named"))
    assert kubectl("get", word, "named", "--output=name").stdout.strip() == f"vllmdeployment.{GROUP}/named"


def test_get_all_shows_it(kubectl: Kubectl) -> None:
    kubectl.apply(resource({"model": {"source": "hf://a/b"}, "suspend": True}, "among-all"))
    assert f"vllmdeployment.{GROUP}/among-all" in kubectl("get", "all", "--output=name").stdout


def test_columns(operator: OperatorProcess, kubectl: Kubectl, api: Api, namespace: str) -> None:
    assert operator.stop() == 0  # the status of a live resource belongs to it; the next test finds it started again
    api.create(resource({"model": {"source": "hf://a/b"}}, "shown"), namespace)
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "AllReplicasReady",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    status = {
        "replicas": 3,
        "sizing": {"gpu": "NVIDIA-L4", "gpusPerReplica": 2, "verdict": "Fits"},
        "conditions": [ready],
        "endpoint": "http://shown.x.svc/v1",
    }
    api.merge(RESOURCE, namespace, "shown", {"status": status}, "status")
    head, row = (line.split() for line in kubectl("get", "vd", "shown", "--output=wide").stdout.splitlines())
    assert head == ["NAME", *(name.upper() for name, *_ in COLUMNS)]
    shown = dict(zip(head, row, strict=True))
    assert re.fullmatch(r"\d+s", shown.pop("AGE"))
    assert shown == {
        "NAME": "shown", "READY": "True", "REASON": "AllReplicasReady", "REPLICAS": "3", "GPU": "NVIDIA-L4",
        "GPUS": "2", "MODEL": "hf://a/b", "VERDICT": "Fits", "URL": "http://shown.x.svc/v1",
    }  # fmt: skip
    narrow = kubectl("get", "vd", "shown").stdout.splitlines()[0].split()
    assert narrow == ["NAME", *(name.upper() for name, _, _, priority, _ in COLUMNS if priority == 0)]


# ---- subresources


def test_scale_reads_and_writes_replicas(kubectl: Kubectl, api: Api, namespace: str) -> None:
    api.create(resource({"model": {"source": "hf://a/b"}}, "x"), namespace)
    scale = api.call("GET", path_of(RESOURCE, namespace, "x", "scale"))
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 1)
    kubectl("scale", "vd/x", "--replicas=3")
    stored = api.get(RESOURCE, namespace, "x")
    assert stored is not None
    assert stored["spec"]["replicas"] == 3
    assert stored["metadata"]["generation"] == 2


def test_scale_obeys_the_rules(kubectl: Kubectl, api: Api, namespace: str) -> None:
    api.create(resource({"model": {"source": "hf://a/b"}, "cache": {"accessMode": "ReadWriteOnce"}}, "x"), namespace)
    answer = kubectl("scale", "vd/x", "--replicas=2", check=False)
    assert answer.returncode != 0
    assert "a ReadWriteOnce cache holds replicas of one node only" in answer.stderr


def test_status_is_a_subresource(api: Api, namespace: str) -> None:
    created = api.create({**resource({"model": {"source": "hf://a/b"}}, "x"), "status": {"phase": "Ready"}}, namespace)
    conditions = [(one["type"], one["status"]) for one in created["status"].pop("conditions")]
    assert conditions == [("Ready", "Unknown")], "what a resource shows before the operator has looked at it"
    assert created["status"] == {}
    with pytest.raises(ApiError) as caught:
        api.merge(RESOURCE, namespace, "x", {"status": {"phase": "Splendid"}}, "status")
    assert 'supported values: "Pending"' in str(caught.value)


def test_fields_that_only_a_newer_version_knows_are_dropped(api: Api, namespace: str) -> None:
    document = resource({"model": {"source": "hf://a/b", "newer": 1}, "podTemplate": {"newer": None, "kept": 1}}, "x")
    stored = api.create(json.loads(json.dumps(document)), namespace)
    assert "newer" not in stored["spec"]["model"]
    assert stored["spec"]["podTemplate"] == {"newer": None, "kept": 1}


def test_kind_is_what_the_package_says(cluster: ClusterAccess) -> None:
    names = cluster.kubectl.json("get", "crd", CRD)["spec"]["names"]
    assert (names["kind"], names["plural"], names["categories"]) == (KIND, PLURAL, ["all"])
