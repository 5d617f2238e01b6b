"""Samples: each is valid, small enough for its GPUs, and says what it shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from corpus import PREREQUISITES, Sample, samples
from vllm_operator.api.crd import crd
from vllm_operator.api.parse import parse_manifest
from vllm_operator.cluster import schema_errors
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts, Plan
from vllm_operator.render import render
from vllm_operator.sizing.types import Verdict

SAMPLES = samples()
WARNED = {
    "advisory": {"SizeNotSafe"},
    "any-gpu": {"NodesUnknown"},
    "bucket-source": {"SizeEstimated"},
    "unsized": {"SizeUnchecked", "RemoteCode"},
}
# Fields that no sample sets.
UNSHOWN = {
    "auth.apiKeySecretRef.key",
    "autoscaling.provider",
    "cache.preload",
    "cache.storageClassName",
    "engine.env[].valueFrom.configMapKeyRef.key",
    "engine.env[].valueFrom.configMapKeyRef.name",
    "engine.env[].valueFrom.configMapKeyRef.optional",
    "engine.env[].valueFrom.fieldRef",
    "engine.env[].valueFrom.secretKeyRef.optional",
    "engine.structuredOutputs.disableAnyWhitespace",
    "parallelism.nodes",
    "parallelism.pipeline",
}


def _plan(sample: Sample) -> Plan:
    return make_plan(parse_manifest(sample.document), Defaults(), Facts())


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_sample_fits_and_renders(sample: Sample) -> None:
    plan = _plan(sample)
    assert plan.refusal is None
    assert {warning.reason for warning in plan.warnings} == WARNED.get(sample.name, set())
    assert [error for manifest in render(plan) for error in schema_errors(manifest)] == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_sample_is_sized_from_facts(sample: Sample) -> None:
    sizing = _plan(sample).sizing
    assert sizing is not None
    expected = {"cpu": Verdict.SKIPPED, "unsized": Verdict.SKIPPED, "bucket-source": Verdict.ESTIMATED}
    if sample.name != "advisory":
        assert sizing.verdict is expected.get(sample.name, Verdict.FITS)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_comment_says_what_it_shows(sample: Sample) -> None:
    lines = sample.comment.splitlines()
    assert 2 <= len(lines) <= 4
    assert sample.document["metadata"] == {"name": sample.name}


def _fields(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Paths of what a user can set."""
    for name, field in schema["properties"].items():
        of_items = field.get("items", {})
        if "properties" in field:
            yield from _fields(field, f"{path}{name}.")
        elif "properties" in of_items:
            yield from _fields(of_items, f"{path}{name}[].")
        else:
            yield f"{path}{name}"


def _set(value: object, path: str = "") -> Iterator[str]:
    """Paths of all that a document sets, of objects and lists too."""
    yield path
    if isinstance(value, Mapping):
        for name, field in value.items():
            yield from _set(field, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for item in value:
            yield from _set(item, f"{path}[]")


def test_samples_show_every_field() -> None:
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    shown = {path for sample in SAMPLES for path in _set(sample.document["spec"])}
    assert set(_fields(schema)) - shown == UNSHOWN


def test_prerequisites_hold_what_the_samples_refer_to() -> None:
    objects = {(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(PREREQUISITES.read_text()) if one}
    specs = [parse_manifest(sample.document).spec for sample in SAMPLES]
    secrets = {spec.model.token_secret_ref.name for spec in specs if spec.model.token_secret_ref}
    secrets |= {spec.auth.api_key_secret_ref.name for spec in specs if spec.auth}
    secrets |= {
        variable.value_from.secret_key_ref.name
        for spec in specs
        for variable in spec.engine.env
        if variable.value_from and variable.value_from.secret_key_ref
    }
    claims = {spec.cache.claim_name for spec in specs if spec.cache.claim_name}
    claims |= {
        spec.model.source.removeprefix("pvc://").partition("/")[0]
        for spec in specs
        if spec.model.source.startswith("pvc://")
    }
    wanted = {*(("Secret", name) for name in secrets), *(("PersistentVolumeClaim", name) for name in claims)}
    assert len(wanted) == 5
    assert wanted <= objects
