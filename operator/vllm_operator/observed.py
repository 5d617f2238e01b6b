"""What was last seen of our children, so that a pass writes only what changed.

Fed by the answers of our own applies and by the watch; both carry a resource version, and the newer one wins. An apply
is skipped while all that is ours of the live object is what the manifest asks for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from sys import intern
from typing import Any

from vllm_operator.kinds import CLAIM, Kind
from vllm_operator.naming import (
    CACHE_VOLUME,
    COMMIT_ANNOTATION,
    FIELD_MANAGER,
    HOLDS_ANNOTATION,
    INPUTS_ANNOTATION,
    MANAGED_BY,
    MODEL_ANNOTATION,
    SERVER_CONTAINER,
    Key,
    controller_of,
    resource_of,
    version_of,
)
from vllm_operator.ownership import Fields, applied_fields, extract, manifest_digest, owned_digest
from vllm_operator.plan.types import LiveClaim, LiveWorkload

Ref = tuple[Kind, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class Live:
    """The part of a live object that decisions need; the rest is not worth its memory."""

    uid: str
    version: int
    owner: str  # uid of the controller, empty when there is none
    ours: bool  # carries our mark
    made: bool  # by an apply of ours, whatever it carries
    content: str  # digest of what our own applies hold of it
    owned: frozenset[str]  # fields of `spec` that our own applies hold
    packed: bytes  # the body as JSON, a third of what it takes as objects

    @property
    def body(self) -> Any:  # noqa: ANN401 - any JSON
        """A part of metadata, spec and status, as far as the kind needs them; parsed each time."""
        return json.loads(self.packed)


@lru_cache(maxsize=256)
def _shared(names: frozenset[str]) -> frozenset[str]:
    """The same set for all objects of a kind."""
    return names


_SPEC_FIELDS = ("replicas", "storageClassName", "accessModes", "resources")
_ANNOTATIONS = frozenset({COMMIT_ANNOTATION, HOLDS_ANNOTATION, INPUTS_ANNOTATION, MODEL_ANNOTATION})
_STATUS_FIELDS = (
    *("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"),
    *("startTime", "active", "succeeded", "failed"),
    "phase",
)
_CONDITIONS = frozenset({"Progressing", "ReplicaFailure", "Complete", "Failed", "AbleToScale", "ScalingActive"})
_CONDITION_FIELDS = ("type", "status", "reason", "message", "lastTransitionTime")


def _some(annotations: Mapping[str, str] | None) -> dict[str, str]:
    return {key: value for key, value in (annotations or {}).items() if key in _ANNOTATIONS}


def _status(status: Mapping[str, Any]) -> dict[str, Any]:
    """What decisions are made of. The rest of what controllers note of their steps would only cost passes."""
    told = [one for one in status.get("conditions") or () if one["type"] in _CONDITIONS]
    conditions = [{name: one[name] for name in _CONDITION_FIELDS if name in one} for one in told]
    return {**{name: status[name] for name in _STATUS_FIELDS if name in status}, "conditions": conditions}


def _template(template: Mapping[str, Any], held: Fields | None) -> dict[str, Any]:
    """Our annotations, the claim of the cache, and the images that our own applies hold.

    An image that somebody else set is none of our choice.
    """
    ours = extract(template, held) if held is not None else {}
    containers = (ours.get("spec") or {}).get("containers") or ()
    return {
        "metadata": {"annotations": _some((template.get("metadata") or {}).get("annotations"))},
        "spec": {
            "containers": [{"name": one["name"], "image": one.get("image", "")} for one in containers],
            "claim": _cache_claim(template),
        },
    }


def _cache_claim(template: Mapping[str, Any]) -> str:
    volumes = (template.get("spec") or {}).get("volumes") or ()
    found: Mapping[str, Any] = next((one for one in volumes if one.get("name") == CACHE_VOLUME), {})
    return str((found.get("persistentVolumeClaim") or {}).get("claimName", ""))


def reduce(body: Mapping[str, Any]) -> Live:
    """The part of an object that is kept."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    controller = controller_of(metadata)
    kept_spec = {key: spec[key] for key in _SPEC_FIELDS if key in spec}
    applied = applied_fields(metadata)
    held: Fields = (applied or {}).get("f:spec") or {}
    kept = {
        "metadata": {
            "generation": metadata.get("generation", 0),
            "creationTimestamp": metadata.get("creationTimestamp") or "",
            "annotations": _some(metadata.get("annotations")),
        },
        "spec": {**kept_spec, "template": _template(spec.get("template") or {}, held.get("f:template"))},
        "status": _status(body.get("status") or {}),
    }
    return Live(
        uid=metadata["uid"],
        version=version_of(metadata),
        owner=intern(str(controller["uid"])) if controller else "",
        # Either mark will do: whoever spoils one of them has not made the object his.
        ours=(metadata.get("labels") or {}).get(MANAGED_BY) == FIELD_MANAGER or resource_of(metadata) is not None,
        made=applied is not None,
        content=owned_digest(body),
        owned=_shared(frozenset(name.removeprefix("f:") for name in held)),
        packed=json.dumps(kept, separators=(",", ":")).encode(),
    )


def live_claim(live: Live) -> LiveClaim:
    """What planning must know of a claim."""
    body = live.body
    spec = body["spec"]
    return LiveClaim(
        size=spec["resources"]["requests"]["storage"],
        storage_class=spec.get("storageClassName"),
        access_mode=spec["accessModes"][0],
        bound=body["status"].get("phase") == "Bound",
        owns_class="storageClassName" in live.owned,
        holds=body["metadata"]["annotations"].get(HOLDS_ANNOTATION, ""),
        created=body["metadata"]["creationTimestamp"],
    )


def live_workload(live: Live) -> LiveWorkload:
    """What planning must know of a Deployment."""
    body = live.body
    spec, template = body["spec"], body["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    images = {one["name"]: one["image"] for one in template["spec"]["containers"]}
    return LiveWorkload(
        replicas=spec.get("replicas", 1),
        owns_replicas="replicas" in live.owned,
        model_digest=annotations.get(MODEL_ANNOTATION, ""),
        commit=annotations.get(COMMIT_ANNOTATION, ""),
        image=images.get(SERVER_CONTAINER, ""),
        claim=cache_claim(body),
        inputs=body["metadata"]["annotations"].get(INPUTS_ANNOTATION, ""),
    )


def cache_claim(body: Mapping[str, Any]) -> str:
    """The claim in which pods of a Deployment or Job keep downloaded files; empty when it is none."""
    return str(body["spec"]["template"]["spec"]["claim"])


def claimed_by_others(live: Live, kind: Kind, uid: str, *, elsewhere: bool = False) -> str:
    """Why an object must not be touched by the resource with that uid; empty when it is ours.

    A retained claim has no owner and is known by its marks; `elsewhere`: they name another resource. One that lost its
    owner reference by hand gets it back.
    """
    if live.owner == uid or (not live.owner and live.ours and not elsewhere):
        return ""
    whose = "another object controls it" if live.owner else "somebody else made it"
    if live.ours and elsewhere:
        whose = "it belongs to another VLLMDeployment"
    return f"a {kind} of this name exists and {whose}: rename the resource, or remove the {kind}"


def marked_key(metadata: Mapping[str, Any]) -> Key | None:
    """The resource that an object of ours names."""
    name = resource_of(metadata)
    return Key(intern(metadata["namespace"]), intern(name)) if name else None


def may_go(live: Live, kind: Kind, uid: str) -> bool:
    """Whether the resource with that uid may delete a child that it plans no more.

    What an orphaning deletion of a former resource of the name left behind goes too, or two generations of children
    would act side by side; but a claim without an owner is retained.
    """
    return live.owner == uid or (not live.owner and live.made and kind is not CLAIM)


@dataclass(frozen=True, slots=True)
class _Applied:
    """What the last apply was made from, and what it left behind."""

    manifest: str
    content: str
    kept: bool  # the pod template is an earlier release's


class Observed:
    """The children of all resources as last seen; a restart forgets them, the first listing brings them back."""

    def __init__(self) -> None:
        self._live: dict[Ref, Live] = {}
        self._applied: dict[Ref, _Applied] = {}
        self._by_key: dict[Key, set[Ref]] = {}
        self._keys: dict[Ref, Key] = {}
        self._deleted: dict[Ref, int] = {}  # resource version of the deletion

    def key_of(self, ref: Ref) -> Key | None:
        """The resource that an object was last seen for: its marks may be spoiled since."""
        return self._keys.get(ref)

    def see(self, key: Key, ref: Ref, body: Mapping[str, Any]) -> Live:
        """Take note of an object, unless a newer state of it is known already, or that it was deleted since."""
        return self._take(key, ref, reduce(body))

    def _take(self, key: Key, ref: Ref, seen: Live) -> Live:
        if seen.version < self._deleted.get(ref, 0):  # equal: it only lost the label by which it is watched
            return seen
        known = self._live.get(ref)
        if known is not None and seen.version < known.version:
            return known
        if known is None:
            ref = (ref[0], intern(ref[1]), intern(ref[2]))  # one namespace holds many, and many share a name
        self._deleted.pop(ref, None)
        self._live[ref] = seen
        self._move(key, ref)
        return seen

    def applied(
        self, key: Key, ref: Ref, manifest: Mapping[str, Any], body: Mapping[str, Any], *, kept: bool = False
    ) -> Live:
        """Take note of what our apply left behind; `kept`: with the pod template that was there, not the manifest's."""
        left = reduce(body)
        self._applied[ref] = _Applied(manifest_digest(manifest), left.content, kept)
        return self._take(key, ref, left)

    def deleted(self, key: Key, ref: Ref, version: int) -> None:
        """The object was deleted at that resource version; an answer from before may still be under way."""
        self.forget(key, ref)
        self._deleted[ref] = version

    def forget(self, key: Key, ref: Ref) -> None:
        """Nothing is known of the object any more."""
        self._live.pop(ref, None)
        self._applied.pop(ref, None)
        self._keys.pop(ref, None)
        refs = self._by_key.get(key, set())
        refs.discard(ref)
        if not refs:
            self._by_key.pop(key, None)

    def forget_deletions(self) -> None:
        """No answer from before them can still be under way."""
        self._deleted.clear()

    def _move(self, key: Key, ref: Ref) -> None:
        former = self._keys.get(ref, key)
        if former != key:
            self._by_key.get(former, set()).discard(ref)
        self._by_key.setdefault(key, set()).add(ref)
        self._keys[ref] = key

    def get(self, ref: Ref) -> Live | None:
        """The object as last seen."""
        return self._live.get(ref)

    def of(self, key: Key) -> tuple[Ref, ...]:
        """What exists for a resource, as far as was seen."""
        return tuple(self._by_key.get(key, ()))

    def is_current(self, ref: Ref, manifest: Mapping[str, Any]) -> bool:
        """Whether an apply of this very manifest would change nothing.

        What is ours of the live object says so by itself, after a restart too. Else it is what our last apply of the
        manifest left behind: the API server may write a value in another way than we do.
        """
        live = self._live.get(ref)
        if live is None:
            return False
        wanted = manifest_digest(manifest)
        if wanted == live.content:
            self._applied.pop(ref, None)
            return True
        known = self._applied.get(ref)
        return known is not None and (known.manifest, known.content) == (wanted, live.content)

    def is_kept(self, ref: Ref) -> bool:
        """Whether the last apply left a pod template as it was."""
        known = self._applied.get(ref)
        return known is not None and known.kept

    def missing_from(self, kind: Kind, listed: Collection[tuple[str, str]]) -> tuple[tuple[Key, Ref], ...]:
        """Objects that are not in a complete listing of (namespace, name): deletions that the watch missed."""
        return tuple(
            (key, ref)
            for key, refs in self._by_key.items()
            for ref in refs
            if ref[0] is kind and (ref[1], ref[2]) not in listed
        )
