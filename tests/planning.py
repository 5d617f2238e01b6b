"""Plans as tests of the pure half make them: from a spec as a user writes it, on the nodes of the local cluster."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from localcluster.nodes import fleet
from vllm_operator.api.parse import Resource, parse
from vllm_operator.inventory import Inventory
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts, Plan
from vllm_operator.render import render
from vllm_operator.sizing.types import Offer

Manifest = dict[str, Any]
Spec = Mapping[str, Any]

UID = "6f3c8a52-0000-4000-8000-000000000001"
# Stands in reviewed manifests for the text of that file, which would hide the rest.
TEXT_OF_FILE = "(operator/vllm_operator/engine/data/connection_draining.py)"


@cache
def fleet_offers() -> tuple[Offer, ...]:
    """The GPUs of the local cluster's nodes, as the operator sees them."""
    inventory = Inventory()
    for node in fleet():
        inventory.see(node)
    return inventory.offers()


def resource(spec: Spec, name: str = "chat", namespace: str = "team-a", generation: int = 1) -> Resource:
    """A checked resource with that spec."""
    metadata = {"name": name, "namespace": namespace, "uid": UID, "generation": generation}
    return parse({"metadata": metadata, "spec": spec})


def plan_of(spec: Spec, facts: Facts | None = None, **named: Any) -> Plan:  # noqa: ANN401 - as for `resource`
    """The plan for a spec."""
    return make_plan(resource(spec, **named), Defaults(), facts or Facts(offers=fleet_offers()))


def manifests_of(plan: Plan) -> dict[str, Manifest]:
    """What is rendered, by kind; a plan holds at most one child of each."""
    found = {manifest["kind"]: manifest for manifest in render(plan)}
    assert len(found) == len(plan.children)
    return found


def spec_of(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a spec
    """A small spec that is sized: an 8B model on one GPU, with `fields` beside or instead."""
    return {
        "model": {"source": "hf://Qwen/Qwen3-8B", "maxLength": 16384},
        "gpu": {"product": "NVIDIA-A100-SXM4-40GB"},
        **fields,
    }


def server_of(spec: Spec, **named: Any) -> dict[str, Any]:  # noqa: ANN401 - as for `plan_of`
    """The server container of a spec's Deployment."""
    container: dict[str, Any] = pod_of(spec, **named)["containers"][0]
    return container


def pod_of(spec: Spec, **named: Any) -> dict[str, Any]:  # noqa: ANN401 - as for `plan_of`
    """The pod spec of a spec's Deployment."""
    plan = plan_of(spec, **named)
    assert plan.refusal is None, plan.refusal
    pod: dict[str, Any] = manifests_of(plan)["Deployment"]["spec"]["template"]["spec"]
    return pod
