"""What keeps pods running while the operator is upgraded: a pod template stays as an earlier release rendered it.

Kubernetes restarts pods for any change of their template, needed or not. A template gives way when something changed
that pods depend on (`plan.inputs`), when no pod runs, and when somebody else changed it: putting that right restarts
the pods anyway. Templates of Jobs cannot change at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_operator import kinds
from vllm_operator.naming import INPUTS_ANNOTATION, TEMPLATE_ANNOTATION
from vllm_operator.ownership import applied_fields, extract, manifest_digest
from vllm_operator.status.observation import preload_of

Object = dict[str, Any]
_OF_JOBS = ("template", "podFailurePolicy")
_DIGITS = 16


def recorded(manifest: Object) -> Object:
    """A manifest with what tells later whether its pod template still is what was rendered."""
    if manifest["kind"] != kinds.DEPLOYMENT.kind:
        return manifest
    return _with_record(manifest, _digest(manifest["spec"]["template"]))


def may_keep(manifest: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    """Whether the pods of a live Deployment or Job may stay what they are, as far as can be told without a call."""
    if manifest["kind"] == kinds.JOB.kind:
        return preload_of(live).complete
    if manifest["kind"] != kinds.DEPLOYMENT.kind:
        return False
    rests = not live["spec"].get("replicas", 1) and not (live.get("status") or {}).get("replicas")
    return not rests and _annotation(live, INPUTS_ANNOTATION) == _annotation(manifest, INPUTS_ANNOTATION)


def keep_template(manifest: Object, live: Mapping[str, Any]) -> Object:
    """The manifest with the pod template of `live`, the whole object; the manifest itself where that cannot stay."""
    parts = _OF_JOBS if manifest["kind"] == kinds.JOB.kind else ("template",)
    kept = _ours(live, parts)
    if manifest["kind"] == kinds.DEPLOYMENT.kind:
        record = _annotation(live, TEMPLATE_ANNOTATION)
        if _digest(kept.get("template")) != _written(record):
            return manifest
        manifest = _with_record(manifest, record)
    others = {key: value for key, value in manifest["spec"].items() if key not in kept}
    return {**manifest, "spec": {**others, **kept}}


def is_outdated(wanted: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether what is wanted holds another pod template than this release renders."""
    return _rendered(_annotation(wanted, TEMPLATE_ANNOTATION)) != _rendered(_annotation(manifest, TEMPLATE_ANNOTATION))


def corrected(manifest: Object, live: Mapping[str, Any]) -> Object | None:
    """The manifest with a better record, where the API server wrote its template in another way; as a rule None."""
    record = _annotation(manifest, TEMPLATE_ANNOTATION)
    if not record or (written := _digest(_ours(live, ("template",)).get("template"))) == _written(record):
        return None
    return _with_record(manifest, f"{_rendered(record)}-{written}")


def _ours(live: Mapping[str, Any], parts: tuple[str, ...]) -> Object:
    """Parts of the spec, as far as our own applies hold them."""
    fields = dict((applied_fields(live["metadata"]) or {}).get("f:spec") or {})
    return {part: extract(live["spec"][part], fields[f"f:{part}"]) for part in parts if f"f:{part}" in fields}


def _annotation(body: Mapping[str, Any], name: str) -> str:
    return str((body["metadata"].get("annotations") or {}).get(name) or "")


def _with_record(manifest: Object, record: str) -> Object:
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), TEMPLATE_ANNOTATION: record}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _digest(template: object) -> str:
    return manifest_digest({"template": template})[:_DIGITS]


def _rendered(record: str) -> str:
    return record.partition("-")[0]


def _written(record: str) -> str:
    rendered, _, written = record.partition("-")
    return written or rendered
