"""What the schema lets through and Kubernetes does not: said by condition, harmless to others, healed by the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cluster.support.fixtures import Create
from cluster.support.planned import deviations

pytestmark = pytest.mark.usefixtures("unharmed")

POD_TEMPLATES: dict[str, Mapping[str, Any]] = {
    "unknown-field": {"spec": {"containrs": []}},
    "wrong-type": {"spec": {"containers": [{"name": "vllm", "image": {"name": "vllm"}}]}},
    "odd-key": {"spec": {"containers": [{"name": ["vllm"]}]}},
    "odd-variable": {"spec": {"containers": [{"name": "vllm", "env": [{"name": {"a": "b"}}]}]}},
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
