"""What the schema lets through and Kubernetes does not: said by condition, harmless to others, healed by the fix."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from cluster.support.fixtures import Create
from cluster.support.planned import deviations

LEVELS = 3_000  # three times what Python's json reads by default

pytestmark = pytest.mark.usefixtures("unharmed")


def _twin(variable: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": "a", "image": "a:1", "env": [variable]}


POD_TEMPLATES: dict[str, Mapping[str, Any]] = {
    "unknown-field": {"spec": {"containrs": []}},
    "wrong-type": {"spec": {"containers": [{"name": "vllm", "image": {"name": "vllm"}}]}},
    "odd-key": {"spec": {"containers": [{"name": ["vllm"]}]}},
    "odd-variable": {"spec": {"containers": [{"name": "vllm", "env": [{"name": {"a": "b"}}]}]}},
    "odd-volume": {"spec": {"volumes": [{"name": ["ca"]}]}},
    "odd-directive": {"spec": {"hostAliases": [{"$patch": "merge"}]}},
    "odd-retention": {"spec": {"securityContext": {"$retainKeys": True}}},
    "odd-twin": {"spec": {"containers": [_twin({}), _twin({})]}},
    "no-containers": {"spec": {"containers": [{"name": "vllm", "$patch": "delete"}]}},
}


def test_malformed_pod_templates_harm_nobody_and_heal(create: Create) -> None:
    services = [create(name, {"podTemplate": overlay}) for name, overlay in POD_TEMPLATES.items()]
    create("bystander").wait_ready()
    for service in services:
        service.wait("Ready", "False", "Rejected")
        assert service.says("Stalled", "True", "Rejected")
        service.edit({"podTemplate": None})
    for service in services:
        service.wait_ready()
        assert deviations(service) == []


@pytest.fixture
def _deep_recursion() -> Iterator[None]:
    """This process reads and writes the object too."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10 * LEVELS)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("_deep_recursion")
def test_what_is_nested_beyond_reason_harms_nobody_and_heals(create: Create) -> None:
    nested: Any = {}
    for _ in range(LEVELS):
        nested = {"a": nested}
    deep = create("deep", {"podTemplate": {"metadata": {"annotations": nested}}})
    deep.wait("Ready", "False", "InvalidSpec")
    create("bystander").wait_ready()
    deep.edit({"podTemplate": None})
    deep.wait_ready()
