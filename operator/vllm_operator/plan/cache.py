"""The model cache: a claim, and the Job that fills it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vllm_operator import kinds
from vllm_operator.api.model_spec import Files
from vllm_operator.api.quantity import in_gib, to_bytes
from vllm_operator.api.spec import Spec
from vllm_operator.engine.pod import HUB_MOUNT
from vllm_operator.engine.source import Scheme, parse_source
from vllm_operator.naming import CACHE_VOLUME, HOLDS_ANNOTATION, child_name, digest
from vllm_operator.plan import loader
from vllm_operator.plan.fetching import Errand, Step, job, patterns
from vllm_operator.plan.types import Child, Defaults, Facts, LiveClaim, LiveWorkload
from vllm_operator.report import is_commit

COMPONENT = "preload"
MODEL_STEP = "model"  # the container that downloads the model itself, after adapters and a draft model
GIB = 2**30
_COMPILED = 10 * GIB  # compiled kernels of a few images and GPU types
_ADAPTER = 2 * GIB
_UNKNOWN_DRAFT = 16 * GIB
_UNKNOWN_MODEL = 200 * GIB
_OF_MANY_NODES = frozenset({"ReadWriteMany", "ReadOnlyMany"})


@dataclass(frozen=True, slots=True)
class Sizes:
    """Weights of the model and of its draft model in GiB; None where they are not known."""

    model: float | None
    draft: float | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """The claim as it can be applied, and what of the wish had to stay behind."""

    size: str
    storage_class: str | None
    access_mode: str
    problem: str = ""


def has_cache(spec: Spec) -> bool:
    """Whether model files go through a claim: only those that are downloaded, unless every pod keeps its own."""
    return parse_source(spec.model.source).is_downloaded and not spec.cache.ephemeral


def own_claim(name: str) -> str:
    """The claim that is made for a resource."""
    return child_name(name, "-cache")


def claim_name(spec: Spec, name: str) -> str:
    """The claim that holds the cache: the user's or our own."""
    return spec.cache.claim_name or own_claim(name)


def users_claim(spec: Spec) -> str:
    """The claim that servers mount and that is none of ours, with the cache or the model; empty when there is none."""
    source = parse_source(spec.model.source)
    if source.scheme is Scheme.CLAIM:
        return source.location
    return spec.cache.claim_name if has_cache(spec) else ""


def mounted_claim(spec: Spec, name: str) -> str:
    """The claim that servers mount, with the cache or the model, whoever made it."""
    return users_claim(spec) or claim_name(spec, name)


def is_single_node(spec: Spec, facts: Facts) -> bool:
    """Whether one node at a time can mount the claim of the servers: by what it is, and else by what is asked for."""
    if not (has_cache(spec) or users_claim(spec)):
        return False
    ours = (facts.claim.access_mode,) if facts.claim and not users_claim(spec) else ()
    return _OF_MANY_NODES.isdisjoint(facts.modes or ours or (spec.cache.access_mode,))


def preloads(spec: Spec) -> bool:
    """Whether a Job downloads the model before servers start; they are offline then."""
    return has_cache(spec) and spec.cache.preload


def wanted_size(spec: Spec, files: Sizes) -> str:
    """Size of the claim: files and a tenth, adapters and draft, and room for compiled kernels."""
    if spec.cache.size != "auto":
        return spec.cache.size
    adapters = len(spec.engine.lora.adapters) * _ADAPTER if spec.engine.lora else 0
    drafts = spec.engine.speculative and spec.engine.speculative.model
    draft = _files(files.draft, _UNKNOWN_DRAFT) if drafts else 0
    return in_gib(_files(files.model, _UNKNOWN_MODEL) + adapters + draft + _COMPILED)


def _files(weights_gib: float | None, unknown: int) -> int:
    return int(weights_gib * 1.1 * GIB) if weights_gib else unknown


def storage(spec: Spec, files: Sizes, live: LiveClaim | None) -> Storage:
    """What to apply: the wish, but for what an existing claim cannot change any more.

    A claim grows once it is bound and never shrinks; its class and access mode are immutable. A size that the operator
    chose itself (auto) stays silently at what the claim has; everything else that is held back is said.
    """
    size = wanted_size(spec, files)
    wanted_class, wanted_mode = spec.cache.storage_class_name, spec.cache.access_mode
    if live is None:
        return Storage(size, wanted_class, wanted_mode)
    problems = []
    if wanted_class not in (None, live.storage_class):
        problems.append(f"storageClassName stays {live.storage_class!r} (asked: {wanted_class!r})")
    if wanted_mode != live.access_mode:
        problems.append(f"accessMode stays {live.access_mode} (asked: {wanted_mode})")
    if to_bytes(size) < to_bytes(live.size) and spec.cache.size != "auto":
        problems.append(f"size stays {live.size} (asked: {size}, and claims do not shrink)")
    grows = live.bound and to_bytes(size) > to_bytes(live.size)
    way_out = "Kubernetes cannot change this on a claim that exists: undo it, or name a new claim in cache.claimName"
    return Storage(
        size if grows else live.size,
        live.storage_class if wanted_class is not None or live.owns_class else None,
        live.access_mode,
        f"{'; '.join(problems)}. {way_out}" if problems else "",
    )


def claim(spec: Spec, name: str, chosen: Storage, holds: str) -> Child:
    """The claim; a retained one carries no owner and so outlives the resource, with what it says that it holds."""
    return Child(
        kinds.CLAIM,
        own_claim(name),
        "claim.yaml.j2",
        {"size": chosen.size, "storage_class": chosen.storage_class, "access_mode": chosen.access_mode},
        component="cache",
        owned=spec.cache.reclaim_policy == "Delete",
        annotations={HOLDS_ANNOTATION: holds} if holds else None,
    )


def _step(name: str, source: str, revision: str = "", files: Files | None = None) -> Step:
    args = [source]
    if revision:
        args += ["--revision", revision]
    if files:
        args += patterns(files)
    return Step(name, args)


def downloads(spec: Spec) -> list[Step]:
    """Everything that servers will read offline, the model last."""
    found = []
    if spec.engine.speculative and spec.engine.speculative.model:
        found.append(_step("draft", spec.engine.speculative.model))
    adapters = spec.engine.lora.adapters if spec.engine.lora else ()
    found += [_step(f"adapter-{index}", one.source) for index, one in enumerate(adapters)]
    return [*found, _step(MODEL_STEP, spec.model.source, spec.model.revision, spec.model.files)]


def model_digest(spec: Spec) -> str:
    """Changes exactly when servers need other files."""
    if not preloads(spec):
        return digest([spec.model.source, spec.model.revision])
    return digest([asdict(one) for one in downloads(spec)])


def reads_the_same(spec: Spec, name: str, running: LiveWorkload) -> bool:
    """Whether servers that run read the files that are asked for, out of the same claim where a Job brings them."""
    if running.model_digest != model_digest(spec):
        return False
    claim = loader.laid_over(spec, CACHE_VOLUME) or claim_name(spec, name)
    return not preloads(spec) or running.claim in ("", claim)


def is_held(spec: Spec, what: str, facts: Facts) -> bool:
    """Whether a claim of ours was seen to be filled with `what` servers need, by its digest, and still must be."""
    was_filled = facts.claim is not None and facts.claim.holds == what
    return (was_filled or facts.commit == spec.model.revision) and _lasts(spec, facts)


def _lasts(spec: Spec, facts: Facts) -> bool:
    """Whether what a Job brought cannot move, and another may look at it beside servers, on whatever node."""
    cache = spec.cache
    stays = preloads(spec) and cache.reclaim_policy == "Retain" and not cache.claim_name
    # Adapters and draft models follow their branch.
    return stays and not is_single_node(spec, facts) and is_commit(spec.model.revision) and len(downloads(spec)) == 1


def preload(spec: Spec, name: str, defaults: Defaults, beside: Mapping[str, Any] | None) -> Child:
    """The Job that fills the cache before a server starts.

    `beside` is where servers run, for a single-node volume: it must be made where they can follow it.
    """
    errand = Errand(
        COMPONENT,
        downloads(spec),
        {"HF_HOME": HUB_MOUNT},
        {"name": CACHE_VOLUME, "persistentVolumeClaim": {"claimName": claim_name(spec, name)}},
        {"name": CACHE_VOLUME, "mountPath": HUB_MOUNT, "subPath": "hub"},
        loader.pod_settings(spec) if beside is None else loader.pod_settings_beside(spec, beside),
    )
    return job(spec, name, defaults, errand, model_digest(spec))
