"""What a pod template is rendered from: while that stays the same, another release of the operator restarts no pod.

The digest is kept on the Deployment from release to release, so its meaning is a contract: a new field counts only once
it is set, and what a default means within an API version never changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vllm_operator.api.spec import Spec
from vllm_operator.naming import digest
from vllm_operator.plan.types import Defaults, Facts

# Parts of a spec that no pod template depends on. Whatever is not named here counts.
_OUTSIDE: Any = {  # as pydantic wants it
    "replicas": True,
    "autoscaling": True,
    "service": True,
    "monitoring": True,
    "rollout": True,
    "network_policy": True,
    "suspend": True,
    "cache": {"size", "storage_class_name", "reclaim_policy"},
}


def pod_inputs(spec: Spec, product: str) -> str:
    """A digest of all that pods depend on: what a user says about them, and the GPU product that was chosen."""
    said = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_OUTSIDE)
    return digest([said, product], 16)


def as_running(spec: Spec, defaults: Defaults, facts: Facts) -> Defaults:
    """The defaults for a resource: the image that its pods run is the default for as long as they need not change."""
    running = facts.workload
    if running is None or not running.image or defaults.renew_pods or spec.engine.image:
        return defaults
    if running.inputs != pod_inputs(spec, facts.previous_product):
        return defaults
    return replace(defaults, engine_image=running.image, cpu_image=running.image)
