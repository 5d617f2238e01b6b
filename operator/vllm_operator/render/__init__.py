"""From a plan to manifests: templates hold the shape, Python decides, fills, overlays and stamps ownership."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

from vllm_operator.naming import RESOURCE_ANNOTATION, labels, owner_reference
from vllm_operator.plan.types import Child, Plan
from vllm_operator.render.filling import environment, fill
from vllm_operator.render.overlay import strategic_merge

__all__ = ["render", "render_child"]


def render(plan: Plan) -> list[dict[str, Any]]:
    """The manifests of a plan, in the order in which they are applied."""
    return [render_child(plan, child) for child in plan.children]


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def render_child(plan: Plan, child: Child) -> dict[str, Any]:
    """One manifest. Identity is stamped last, so neither a template nor an overlay can forge it."""
    name = plan.resource.name
    values = {
        "pod_labels": labels(name, child.component),
        "pod_annotations": {RESOURCE_ANNOTATION: name},
        **{key: _plain(value) for key, value in child.values.items()},
    }
    manifest = fill(environment().get_template(child.template), values)
    if child.overlay:
        _overlay(manifest, child)
    head = {"apiVersion": manifest.pop("apiVersion"), "kind": manifest.pop("kind"), "metadata": _metadata(plan, child)}
    return {**head, **manifest}


def _overlay(manifest: dict[str, Any], child: Child) -> None:
    """Lay the user's pod template over ours; what selectors and events find pods by stays."""
    template = manifest["spec"]["template"]
    own = template["metadata"]
    merged = strategic_merge(template, dict(child.overlay or {}))
    for key in ("labels", "annotations"):
        given = merged["metadata"].get(key) or {}
        merged["metadata"][key] = {**given, **own[key]}
    manifest["spec"]["template"] = merged


def _metadata(plan: Plan, child: Child) -> dict[str, Any]:
    resource = plan.resource
    extra = {"grafana_dashboard": "1"} if child.component == "dashboard" else {}
    metadata: dict[str, Any] = {
        "name": child.name,
        "namespace": resource.namespace,
        "labels": {**labels(resource.name, child.component), **extra},
        "annotations": {**(child.annotations or {}), RESOURCE_ANNOTATION: resource.name},
    }
    if child.owned:
        metadata["ownerReferences"] = [owner_reference(resource.name, resource.uid)]
    return metadata
