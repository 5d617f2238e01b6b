"""What keeps pods running while the operator is upgraded: a pod template stays as an earlier release rendered it.

Kubernetes restarts pods for any change of their template, needed or not. A template gives way when something changed
that pods depend on (`plan.inputs`), when no pod runs, and when somebody else holds a part of it: then what runs is not
what was rendered, and putting it right restarts the pods anyway. Templates of Jobs cannot change at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_operator import kinds
from vllm_operator.naming import INPUTS_ANNOTATION
from vllm_operator.ownership import Fields, applied_fields, extract, holds_any, others_fields
from vllm_operator.status.observation import preload_of

Object = dict[str, Any]
_OF_JOBS = ("template", "podFailurePolicy")


def may_keep(manifest: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    """Whether the pods of a live Deployment or Job may stay what they are; as far as can be told without a call."""
    if manifest["kind"] == kinds.JOB.kind:
        return preload_of(live).complete
    if manifest["kind"] != kinds.DEPLOYMENT.kind:
        return False
    rests = not live["spec"].get("replicas", 1) and not (live.get("status") or {}).get("replicas")
    return not rests and _inputs(live) == _inputs(manifest)


def keep_template(manifest: Object, live: Mapping[str, Any]) -> Object:
    """The manifest with the pod template of `live`, the whole object; the manifest itself where that cannot stay."""
    parts = _OF_JOBS if manifest["kind"] == kinds.JOB.kind else ("template",)
    ours = _of_spec(applied_fields(live["metadata"]) or {})
    disturbed = any(_disturbs(fields, manifest, parts) for fields in others_fields(live["metadata"]))
    if disturbed or "f:template" not in ours:
        return manifest
    kept = {part: extract(live["spec"][part], ours[f"f:{part}"]) for part in parts if f"f:{part}" in ours}
    others = {key: value for key, value in manifest["spec"].items() if key not in parts}
    return {**manifest, "spec": {**others, **kept}}


def _inputs(body: Mapping[str, Any]) -> str:
    return str((body["metadata"].get("annotations") or {}).get(INPUTS_ANNOTATION) or "")


def _of_spec(fields: Fields) -> Fields:
    return dict(fields.get("f:spec") or {})


def _disturbs(fields: Fields, manifest: Mapping[str, Any], parts: tuple[str, ...]) -> bool:
    held = {key: below for key, below in _of_spec(fields).items() if key[2:] in parts}
    return bool(held) and holds_any(manifest["spec"], held)
