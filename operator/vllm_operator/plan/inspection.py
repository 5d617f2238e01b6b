"""A look at a model that no table knows: when it is due, by which Job, and what it means when it fails."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vllm_operator.api.spec import Spec
from vllm_operator.engine.source import MODEL_MOUNT, Scheme, parse_source
from vllm_operator.naming import digest
from vllm_operator.plan import loader
from vllm_operator.plan.cache import preloads
from vllm_operator.plan.fetching import Errand, Step, job, patterns
from vllm_operator.plan.model import INSPECTED, is_sized
from vllm_operator.plan.remedies import remedy
from vllm_operator.plan.types import NO_REPORT, Child, Defaults, Facts, Inspection, ResolvedModel, Waiting
from vllm_operator.report import Failed, Fetched, Inspected, ReportError, is_commit, parse_report

COMPONENT = "inspect"
# The download of such a model would fail alike, so there is no use in going on with what its name says.
_HOPELESS = frozenset({"ModelGated", "TokenRefused", "ModelNotFound", "RevisionNotFound"})


def read(source: str, text: str, *, recorded: bool = False, trying: bool = False) -> Inspection:
    """The report of a Job that looked at `source`."""
    try:
        report = parse_report(text)
    except ReportError as error:
        said = f"the inspect Job left {error}"
        return Inspection(source, text, reason=NO_REPORT, message=said, trying=trying, recorded=recorded)
    match report:
        case Inspected():
            return Inspection(source, text, report.commit, report.config, report.weight_bytes, recorded=recorded)
        case Failed():
            reason, message = report.reason.value, remedy(report)
            return Inspection(source, text, reason=reason, message=message, trying=trying, recorded=recorded)
        case Fetched():
            return Inspection(source, text, report.commit, recorded=recorded)


def inspect_digest(spec: Spec) -> str:
    """Changes exactly when another look is due."""
    return digest([COMPONENT, asdict(errand(spec).steps[0]), spec.model.source])


def concerns(spec: Spec, model: ResolvedModel, facts: Facts) -> bool:
    """Whether what a Job sees at the source matters.

    Because the size of the model is not known, or because every server will download it: all must get one commit.
    """
    source = parse_source(spec.model.source)
    if not facts.inspects or source.scheme is Scheme.OBJECT_STORE or spec.model.facts:
        return False
    moves = source.is_downloaded and not preloads(spec) and not is_commit(spec.model.revision)
    return moves or model.guessed or model.known_from == INSPECTED


def waiting(spec: Spec, model: ResolvedModel, found: Inspection | None) -> Waiting | None:
    """Why a plan cannot go on yet; None when it can, be it with what the model's name says."""
    if found is None:
        return Waiting("Inspecting", "a Job reads the model's config.json")
    if not found.reason or found.settled:
        return None
    if found.trying:
        return Waiting(found.reason, found.message)
    if found.reason in _HOPELESS:
        return Waiting(found.reason, found.message, final=True)
    return None if model.facts or not is_sized(spec) else Waiting(found.reason, found.message, final=True)


def errand(spec: Spec) -> Errand:
    """What the Job is sent for: the model's config, from the hub or from where servers mount it."""
    source = parse_source(spec.model.source)
    if source.is_downloaded:
        args = [spec.model.source, "--revision", spec.model.revision, "--inspect", *patterns(spec.model.files)]
        return Errand(COMPONENT, [Step("model", args)], {}, pod_settings=loader.pod_settings(spec))
    volume: dict[str, Any] = {"name": "model", "persistentVolumeClaim": {"claimName": source.location}}
    if source.scheme is Scheme.IMAGE:
        volume = {"name": "model", "image": {"reference": source.location, "pullPolicy": "IfNotPresent"}}
    mount: dict[str, Any] = {"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True}
    step = Step("model", [MODEL_MOUNT, "--inspect"])
    mount |= {"subPath": source.path} if source.path else {}
    return Errand(COMPONENT, [step], {}, volume, mount, loader.pod_settings(spec))


def inspect_job(spec: Spec, name: str, defaults: Defaults) -> Child:
    """The Job that looks at the model."""
    return job(spec, name, defaults, errand(spec), inspect_digest(spec))
