"""Jobs that run `vllm-operator fetch`: one fills the cache, another only looks at a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vllm_operator import kinds
from vllm_operator.api.model_spec import Files
from vllm_operator.api.spec import Spec
from vllm_operator.engine.pod import token_variable, with_user_environment
from vllm_operator.naming import MODEL_ANNOTATION, RESOURCE_ANNOTATION, child_name, digest
from vllm_operator.plan import loader
from vllm_operator.plan.types import Child, Defaults


@dataclass(frozen=True, slots=True)
class Step:
    """One run of `vllm-operator fetch`: the container's name and the arguments."""

    name: str
    args: list[str]


@dataclass(frozen=True, slots=True)
class Errand:
    """What a Job is sent for. Steps run one after the other, the last one is the Job's own container."""

    component: str
    steps: list[Step]
    environment: Mapping[str, str]
    volume: Mapping[str, Any] | None = None  # where files are written to or read from
    mount: Mapping[str, Any] | None = None
    pod_settings: Mapping[str, Any] = field(default_factory=dict)


def patterns(files: Files) -> list[str]:
    """Which files are meant, as arguments of the command."""
    given = (("--include", files.include), ("--exclude", files.exclude))
    return [word for flag, globs in given for glob in globs for word in (flag, glob)]


def job(spec: Spec, name: str, defaults: Defaults, errand: Errand, what: str) -> Child:
    """The Job. Jobs are immutable, so its name carries a hash of what it does: another wish is another Job.

    The image is not part of it: a Job that is done is not done again because the operator was upgraded. `what` is the
    digest by which its report is found.
    """
    mounts = [errand.mount] if errand.mount else []
    values = {
        "steps": [asdict(step) for step in errand.steps],
        "env": _environment(spec, errand.environment),
        "service_account": child_name(name),
        "pod_settings": dict(errand.pod_settings),
        "security_context": loader.security_context(spec),
        "volumes": [*([errand.volume] if errand.volume else ()), *loader.volumes(spec)],
        "volume_mounts": [*mounts, *loader.volume_mounts(spec, mounts)],
    }
    return Child(
        kinds.JOB,
        child_name(name, f"-{errand.component}-{digest(values, 8)}"),
        "fetch.yaml.j2",
        {
            **values,
            "image": defaults.fetch_image,
            "suspend": spec.suspend,
            "pod_annotations": {RESOURCE_ANNOTATION: name, MODEL_ANNOTATION: what},
        },
        component=errand.component,
    )


def _environment(spec: Spec, fixed: Mapping[str, str]) -> list[dict[str, object]]:
    common = {"HOME": "/tmp", "NO_COLOR": "1", **fixed}  # noqa: S108 - an emptyDir of the pod
    return with_user_environment(common, [token_variable(spec)] if spec.model.token_secret_ref else [], spec)
