"""The Deployment: server pods on GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_operator import kinds
from vllm_operator.api.spec import Spec
from vllm_operator.engine.arguments import DRAINING_MODULE, PORT, command, is_cpu
from vllm_operator.engine.own import told
from vllm_operator.engine.pod import (
    CACHE_MOUNT,
    DRAINING_MOUNT,
    HUB_MOUNT,
    draining_source,
    environment,
    host_memory,
    pre_stop,
    shared_memory,
    timing,
)
from vllm_operator.engine.profiles import Settings
from vllm_operator.engine.source import MODEL_MOUNT, Scheme, parse_source
from vllm_operator.errors import Problem
from vllm_operator.naming import (
    CACHE_VOLUME,
    COMMIT_ANNOTATION,
    DRAINING_ANNOTATION,
    INPUTS_ANNOTATION,
    MODEL_ANNOTATION,
    RESOURCE_ANNOTATION,
    SERVER_CONTAINER,
    child_name,
    digest,
    labels,
    selector,
)
from vllm_operator.plan.cache import claim_name, has_cache, preloads
from vllm_operator.plan.inputs import pod_inputs
from vllm_operator.plan.loader import server_image
from vllm_operator.plan.size import DEFAULT_RESOURCE, UNNAMED
from vllm_operator.plan.types import Child, Defaults, LiveWorkload, Plan
from vllm_operator.sizing.types import Sizing

PRODUCT_LABEL = "nvidia.com/gpu.product"


def resource_name(spec: Spec, sizing: Sizing) -> str:
    """The extended resource that counts the GPUs."""
    return spec.gpu.resource_name or (sizing.gpu.resource_name if sizing.gpu else DEFAULT_RESOURCE)


def node_selector(spec: Spec, sizing: Sizing) -> dict[str, str]:
    """Nodes that carry the GPU; other vendors than NVIDIA label theirs differently, their resource tells them apart."""
    gpu = sizing.gpu
    if is_cpu(spec) or gpu is None or gpu.product == UNNAMED:
        return {}
    is_nvidia = gpu.vendor == "nvidia" if gpu.known else resource_name(spec, sizing).startswith("nvidia.com/")
    return {PRODUCT_LABEL: gpu.product} if is_nvidia else {}


def replicas(spec: Spec) -> int | None:
    """Replicas to hold, or None while an autoscaler holds them."""
    if spec.suspend:
        return 0
    return None if spec.autoscaling else spec.replicas


def overlay_problems(spec: Spec) -> tuple[Problem, ...]:
    """What keeps `podTemplate` from being laid over a pod template; what is in its fields the API server checks."""
    field, overlay = "spec.podTemplate", spec.pod_template
    objects = {f"{field}.{key}": overlay[key] for key in ("metadata", "spec") if key in overlay}
    metadata = overlay.get("metadata")
    if isinstance(metadata, Mapping):
        objects |= {f"{field}.metadata.{key}": metadata.get(key, {}) for key in ("labels", "annotations")}
    unknown = (Problem(f"{field}.{key}", "unknown field: known are metadata, spec") for key in overlay)
    return (
        *(problem for problem in unknown if problem.field not in objects),
        *(Problem(path, "must be an object") for path, value in objects.items() if not isinstance(value, Mapping)),
        *_containers_without_image(overlay.get("spec")),
    )


def _containers_without_image(pod: object) -> Iterator[Problem]:
    """Most often one that is meant for the server, by somebody who did not know its name."""
    containers = pod.get("containers") if isinstance(pod, Mapping) else None
    for number, one in enumerate(containers if isinstance(containers, list) else ()):
        if isinstance(one, Mapping) and not one.keys() & {"image", "$patch"} and _is_added(one.get("name")):
            sentence = f"{one['name']} has no image; the server's own container is called {SERVER_CONTAINER}"
            yield Problem(f"spec.podTemplate.spec.containers[{number}]", sentence)


def _is_added(name: object) -> bool:
    return isinstance(name, str) and name != SERVER_CONTAINER


def is_at_rest(spec: Spec) -> bool:
    """Whether no replica is asked for."""
    return replicas(spec) == 0


def handover(spec: Spec, live: LiveWorkload | None) -> int | None:
    """Replicas to park under the hand-over manager before they are let go.

    Leaving a field out of a server-side apply that one owned resets it to its default, 1, unless another manager holds
    it too. And an autoscaler leaves a Deployment of 0 replicas alone, so one that was suspended is woken first.
    """
    if live is None or replicas(spec) is not None or spec.autoscaling is None:
        return None
    if live.replicas == 0:
        return spec.autoscaling.min_replicas
    return live.replicas if live.owns_replicas else None


def _volume(name: str, claim: str, *, read_only: bool = False) -> dict[str, Any]:
    source: dict[str, Any] = {"claimName": claim}
    return {"name": name, "persistentVolumeClaim": {**source, "readOnly": True} if read_only else source}


def _volumes(spec: Spec, name: str, sizing: Sizing) -> list[dict[str, Any]]:
    source = parse_source(spec.model.source)
    found: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory(spec, sizing)}},
        {"name": "tmp", "emptyDir": {}},
        _volume(CACHE_VOLUME, claim_name(spec, name)) if has_cache(spec) else {"name": CACHE_VOLUME, "emptyDir": {}},
    ]
    if source.scheme is Scheme.CLAIM:
        found.append(_volume("model", source.location, read_only=True))
    if source.scheme is Scheme.IMAGE:
        found.append({"name": "model", "image": {"reference": source.location, "pullPolicy": "IfNotPresent"}})
    if not spec.engine.command:
        found.append(_draining_volume())
    return found


def _draining_volume() -> dict[str, Any]:
    """A module of ours in an image that is not: out of an annotation, so that there is no object more to keep."""
    annotation = {"fieldPath": f"metadata.annotations['{DRAINING_ANNOTATION}']"}
    item = {"path": f"{DRAINING_MODULE}.py", "fieldRef": annotation}
    return {"name": "draining", "downwardAPI": {"items": [item]}}


def _mounts(spec: Spec, compiled: str) -> list[dict[str, Any]]:
    """The hub's part of the claim is read-only for servers that are offline; compiled kernels are written beside it.

    A model from elsewhere needs the hub's part too: its adapters and draft model come from the hub.
    """
    source = parse_source(spec.model.source)
    shared = has_cache(spec)
    cache: dict[str, Any] = {"name": CACHE_VOLUME, "mountPath": CACHE_MOUNT}
    hub: dict[str, Any] = {"name": CACHE_VOLUME, "mountPath": HUB_MOUNT, "subPath": "hub"}
    found: list[dict[str, Any]] = [
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        {**cache, "subPath": compiled} if shared else cache,
        {**hub, "readOnly": True} if preloads(spec) else hub,
    ]
    if source.scheme in (Scheme.CLAIM, Scheme.IMAGE):
        model: dict[str, Any] = {"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True}
        found.append({**model, "subPath": source.path} if source.path else model)
    if not spec.engine.command:
        found.append({"name": "draining", "mountPath": DRAINING_MOUNT, "readOnly": True})
    return found


def _resources(spec: Spec, sizing: Sizing, chosen: Settings, weights_gib: float) -> dict[str, Any]:
    request, limit = host_memory(spec, sizing, chosen, weights_gib)
    workers = sizing.tensor * sizing.pipeline
    asked = {"cpu": str(2 if is_cpu(spec) else 1 + workers), "memory": request}
    if is_cpu(spec):
        return {"requests": asked, "limits": {"memory": limit}}
    gpus = {resource_name(spec, sizing): str(sizing.gpus)}
    return {"requests": {**asked, **gpus}, "limits": {"memory": limit, **gpus}}


def _tolerations(spec: Spec, sizing: Sizing) -> list[dict[str, str]]:
    """GPU nodes are commonly tainted with the name of their resource."""
    if is_cpu(spec):
        return []
    return [{"key": resource_name(spec, sizing), "operator": "Exists", "effect": "NoSchedule"}]


def placement(spec: Spec, sizing: Sizing) -> dict[str, Any]:
    """Fields of a pod's spec that say where servers may run, but for what the pod template adds."""
    return {"nodeSelector": node_selector(spec, sizing), "tolerations": _tolerations(spec, sizing)}


def _surge(spec: Spec, *, single_node: bool) -> tuple[int, int]:
    """MaxSurge and maxUnavailable: without a spare GPU, or on a single-node volume, the old replica stops first."""
    return (1, 0) if spec.rollout.spare_gpu and not single_node else (0, 1)


@dataclass(frozen=True, slots=True)
class Launch:
    """What the servers are started with: arguments, digest and commit of the files they read, the weights in GiB."""

    args: list[str]
    model_digest: str
    commit: str
    weights_gib: float
    single_node: bool  # what they mount


def _annotations(spec: Spec, name: str, launch: Launch) -> dict[str, str]:
    commit = {COMMIT_ANNOTATION: launch.commit} if launch.commit else {}
    draining = {} if spec.engine.command else {DRAINING_ANNOTATION: draining_source()}
    return {RESOURCE_ANNOTATION: name, MODEL_ANNOTATION: launch.model_digest, **commit, **draining}


def deployment(plan: Plan, sizing: Sizing, defaults: Defaults, launch: Launch) -> Child:
    """The Deployment of the servers."""
    spec, name = plan.resource.spec, plan.resource.name
    surge, unavailable = _surge(spec, single_node=launch.single_node)
    compiled = f"compiled/{digest([server_image(spec, defaults), sizing.gpu.product if sizing.gpu else 'cpu'])}"
    values = {
        "replicas": replicas(spec),
        "selector": selector(name),
        "pod_labels": labels(name, "server"),
        "pod_annotations": _annotations(spec, name, launch),
        "max_surge": surge,
        "max_unavailable": unavailable,
        "timing": timing(spec.lifecycle),
        "pre_stop": pre_stop(spec),
        "service_account": child_name(name),
        "node_selector": node_selector(spec, sizing),
        "tolerations": _tolerations(spec, sizing),
        "image": server_image(spec, defaults),
        "command": command(spec),
        "args": launch.args,
        "env": environment(spec, told(spec, sizing, plan.settings, launch.commit), offline=preloads(spec)),
        "port": PORT,
        "resources": _resources(spec, sizing, plan.settings, launch.weights_gib),
        "volumes": _volumes(spec, name, sizing),
        "volume_mounts": _mounts(spec, compiled),
    }
    return Child(
        kinds.DEPLOYMENT,
        child_name(name),
        "deployment.yaml.j2",
        values,
        annotations={INPUTS_ANNOTATION: pod_inputs(spec, sizing.gpu.product if sizing.gpu else "")},
        overlay=spec.pod_template,
    )
