"""Every sample becomes exactly the manifests and the status that were reviewed; `make golden` rewrites them.

GPUs are those of the local cluster's nodes, so that a test against it sees the same objects.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from planning import TEXT_OF_FILE, UID, fleet_offers
from vllm_operator.api.parse import Resource, parse_manifest
from vllm_operator.engine.pod import draining_source
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts, Plan
from vllm_operator.render import render
from vllm_operator.status import Observation, make_status
from vllm_operator.status.observation import Preload, Rollout, Scaling

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
NOW = "2026-01-01T00:00:00Z"


class Dumper(yaml.CSafeDumper):
    """YAML as people read it: no anchors, text of several lines as a block."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True

    def text(self, value: str) -> yaml.ScalarNode:
        value = TEXT_OF_FILE if value == draining_source() else value
        block = "|" if "\n" in value else None
        found: yaml.ScalarNode = self.represent_scalar("tag:yaml.org,2002:str", value, style=block)
        return found


Dumper.add_representer(str, Dumper.text)


def resource_of(sample: Path) -> Resource:
    raw = yaml.load(sample.read_text(), yaml.CSafeLoader)
    raw["metadata"] |= {"uid": UID, "generation": 1}
    return parse_manifest(raw)


def settled(plan: Plan) -> Observation:
    """What is seen once everything has come up: as many replicas as the spec asks for, or at least."""
    spec = plan.resource.spec
    fewest = spec.autoscaling.min_replicas if spec.autoscaling else spec.replicas
    count = 0 if spec.suspend or plan.refusal else fewest
    rollout = Rollout(wanted=count, existing=count, updated=count, ready=count, available=count)
    return Observation(
        plan,
        rollout=replace(rollout, exists=plan.refusal is None, current=True),
        preload=Preload(exists=True, complete=not spec.suspend),
        scaling=Scaling(exists=True),
        claim_phase="Bound",
    )


def documents(sample: Path) -> list[dict[str, Any]]:
    """The manifests of a sample in the order in which they are applied, then its status."""
    resource = resource_of(sample)
    plan = make_plan(resource, Defaults(), Facts(offers=fleet_offers()))
    head = {"apiVersion": "vllm-operator.dev/v1alpha1", "kind": "VLLMDeployment"}
    status = make_status(settled(plan), {}, NOW)
    return [*render(plan), {**head, "metadata": {"name": resource.name}, "status": status}]


def golden(sample: Path) -> str:
    head = f"# What becomes of manifests/samples/{sample.name}: its children, and its status once they are up.\n"
    made = yaml.dump_all(documents(sample), Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)
    return f"{head}---\n{made.removeprefix('---').lstrip()}"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_a_sample_becomes_what_was_reviewed(sample: Path, pytestconfig: pytest.Config) -> None:
    made, file = golden(sample), GOLDEN / sample.name
    if pytestconfig.getoption("--update-golden"):
        file.write_text(made)
    reviewed = file.read_text() if file.exists() else ""
    difference = difflib.unified_diff(reviewed.splitlines(), made.splitlines(), "reviewed", "rendered now", lineterm="")
    assert reviewed == made, "\n".join([*difference, "", "If that is meant: `make golden`, and review what git shows."])


def test_every_reviewed_file_has_a_sample(pytestconfig: pytest.Config) -> None:
    stale = {file.name for file in GOLDEN.iterdir()} - {sample.name for sample in SAMPLES}
    if pytestconfig.getoption("--update-golden"):
        for name in stale:
            (GOLDEN / name).unlink()
        stale = set()
    assert stale == set()
