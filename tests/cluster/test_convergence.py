"""Every sample becomes what its golden manifests say, and nothing beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from cluster.support.api import Manifest, kind_of
from cluster.support.covering import differences
from cluster.support.samples import NAMES, Samples, golden
from cluster.support.service import Service
from operator_process import OperatorProcess
from vllm_operator.kinds import RESOURCE

# What this cluster lacks: metrics to scale by, and the kinds of the Prometheus operator.
LACKING: Mapping[str, Mapping[str, str]] = {
    "autoscaled": {"ScalingReady": "MetricsUnavailable", "Accepted": "Accepted"},
    "monitoring": {"Accepted": "Accepted"},
}

Identity = tuple[str, str]


def _identity(one: Manifest) -> Identity:
    return one["kind"], one["metadata"]["name"]


def _wanted(name: str, service: Service) -> tuple[dict[Identity, Manifest], Manifest]:
    """The golden children as they must be here, owned by this very resource, and its golden status."""
    *children, resource = golden(name)
    assert kind_of(resource) is RESOURCE
    for one in children:
        for owner in one["metadata"].get("ownerReferences", ()):
            owner["uid"] = service.uid
    return {_identity(one): one for one in children if not kind_of(one).optional}, resource["status"]


def _comparable(status: Manifest, name: str) -> dict[str, Any]:
    """A status without times, without what cannot be had here, and without how many products there were to choose from.

    There is one more than the golden status knows: that of the sample unlisted-gpu. And Jobs that look at models reach
    no hub from simulated nodes.
    """
    lacking = LACKING.get(name, {})
    status = json.loads(re.sub(r"Chosen among \d+ products", "Chosen among products", json.dumps(status)))
    conditions = {one["type"]: {**one, "lastTransitionTime": ""} for one in status["conditions"]}
    if status["model"].pop("inspected", None):
        accepted = conditions["Accepted"]
        accepted["message"] = re.sub(r"^InspectFailed: .*? \(HubUnreachable\): [^;]*(; |$)", "", accepted["message"])
    return {**status, "conditions": {kind: one for kind, one in conditions.items() if kind not in lacking}}


@pytest.mark.parametrize("name", NAMES)
def test_sample_converges_to_its_golden_children_and_status(
    name: str, samples: Samples, operator: OperatorProcess
) -> None:
    assert operator.alive
    service = samples[name].wait_ready(reason="Suspended" if name == "suspended" else "Available")
    live = {_identity(one): one for one in service.children()}
    wanted, status = _wanted(name, service)
    assert set(live) == set(wanted)
    assert [text for key, one in wanted.items() for text in differences(one, live[key], str(key))] == []
    assert _comparable(service.status, name) == _comparable(status, name)
    for condition, reason in LACKING.get(name, {}).items():
        assert service.condition(condition)["reason"] == reason


@pytest.mark.parametrize("name", LACKING)
def test_kinds_that_the_cluster_lacks_are_said(name: str, samples: Samples) -> None:
    *children, _ = golden(name)
    message = samples[name].wait_ready().condition("Accepted")["message"]
    missing = [one["kind"] for one in children if kind_of(one).optional]
    assert missing
    assert [kind for kind in missing if f"CRDNotInstalled: {kind} {name}" not in message] == []
