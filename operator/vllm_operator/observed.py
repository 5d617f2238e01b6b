"""What was last seen of our children, so that a pass writes only what changed.

Fed by the answers of our own applies and by the watch; both carry a resource version, and the newer one wins. An apply
is skipped while the live object, status aside, is what our last apply of the same manifest left behind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_operator.kinds import CLAIM, Kind
from vllm_operator.naming import (
    COMMIT_ANNOTATION,
    FIELD_MANAGER,
    MANAGED_BY,
    MODEL_ANNOTATION,
    Key,
    controller_of,
    digest,
    resource_of,
)
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
    fingerprint: str
    body: Mapping[str, Any]  # metadata.generation, spec and status, as far as the kind needs them
    owned: frozenset[str]  # fields of `spec` that our own applies hold


def _version(metadata: Mapping[str, Any]) -> int:
    """Resource versions of one resource type are comparable as integers (documented since Kubernetes 1.35)."""
    return int(metadata.get("resourceVersion") or 0)


def _applied(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The fields that our own applies hold (FieldsV1); None where we never applied anything."""
    for entry in metadata.get("managedFields") or ():
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply":
            return dict(entry.get("fieldsV1") or {})
    return None


# Written by controllers of Kubernetes into objects of ours; not drift.
_FOREIGN_ANNOTATIONS = ("deployment.kubernetes.io/", "pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.")
_FOREIGN_SPEC = ("volumeName",)


def fingerprint(body: Mapping[str, Any]) -> str:
    """Changes when anything changes that a manifest of ours could hold: all but status and bookkeeping."""
    metadata = body["metadata"]
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if not key.startswith(_FOREIGN_ANNOTATIONS)
    }
    content = {key: value for key, value in body.items() if key not in ("metadata", "status", "apiVersion", "kind")}
    spec = {key: value for key, value in (body.get("spec") or {}).items() if key not in _FOREIGN_SPEC}
    owners = metadata.get("ownerReferences")
    return digest([metadata.get("labels"), annotations, owners, {**content, "spec": spec}], 32)


_SPEC_FIELDS = ("replicas", "storageClassName", "accessModes", "resources")


def reduce(body: Mapping[str, Any]) -> Live:
    """The part of an object that is kept."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    controller = controller_of(metadata)
    template = (spec.get("template") or {}).get("metadata") or {}
    kept_spec = {key: spec[key] for key in _SPEC_FIELDS if key in spec}
    applied = _applied(metadata)
    return Live(
        uid=metadata["uid"],
        version=_version(metadata),
        owner=str(controller["uid"]) if controller else "",
        # Either mark will do: whoever spoils one of them has not made the object his.
        ours=(metadata.get("labels") or {}).get(MANAGED_BY) == FIELD_MANAGER or resource_of(metadata) is not None,
        made=applied is not None,
        fingerprint=fingerprint(body),
        body={
            "metadata": {"generation": metadata.get("generation", 0)},
            "spec": {**kept_spec, "template": {"metadata": {"annotations": template.get("annotations") or {}}}},
            "status": body.get("status") or {},
        },
        owned=frozenset(name.removeprefix("f:") for name in (applied or {}).get("f:spec") or ()),
    )


def live_claim(live: Live) -> LiveClaim:
    """What planning must know of a claim."""
    spec = live.body["spec"]
    return LiveClaim(
        size=spec["resources"]["requests"]["storage"],
        storage_class=spec.get("storageClassName"),
        access_mode=spec["accessModes"][0],
        bound=live.body["status"].get("phase") == "Bound",
        owns_class="storageClassName" in live.owned,
    )


def live_workload(live: Live) -> LiveWorkload:
    """What planning must know of a Deployment."""
    spec = live.body["spec"]
    annotations = spec["template"]["metadata"]["annotations"]
    return LiveWorkload(
        replicas=spec.get("replicas", 1),
        owns_replicas="replicas" in live.owned,
        model_digest=annotations.get(MODEL_ANNOTATION, ""),
        commit=annotations.get(COMMIT_ANNOTATION, ""),
    )


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
    return Key(metadata["namespace"], name) if name else None


def may_go(live: Live, kind: Kind, uid: str) -> bool:
    """Whether the resource with that uid may delete a child that it plans no more.

    What an orphaning deletion of a former resource of the name left behind goes too, or two generations of children
    would act side by side; but a claim without an owner is retained.
    """
    return live.owner == uid or (not live.owner and live.made and kind is not CLAIM)


class Observed:
    """The children of all resources as last seen; a restart forgets them, the first listing brings them back."""

    def __init__(self) -> None:
        self._live: dict[Ref, Live] = {}
        self._applied: dict[Ref, tuple[str, str]] = {}  # digest of our manifest, fingerprint of what it left behind
        self._by_key: dict[Key, set[Ref]] = {}
        self._keys: dict[Ref, Key] = {}
        self._deleted: dict[Ref, int] = {}  # resource version of the deletion

    def key_of(self, ref: Ref) -> Key | None:
        """The resource that an object was last seen for: its marks may be spoiled since."""
        return self._keys.get(ref)

    def see(self, key: Key, ref: Ref, body: Mapping[str, Any]) -> Live:
        """Take note of an object, unless a newer state of it is known already, or that it was deleted since."""
        seen = reduce(body)
        if seen.version < self._deleted.get(ref, 0):  # equal: it only lost the label by which it is watched
            return seen
        known = self._live.get(ref)
        if known is None or seen.version >= known.version:
            self._deleted.pop(ref, None)
            self._live[ref] = seen
            self._move(key, ref)
        return self._live[ref]

    def applied(self, key: Key, ref: Ref, manifest: Mapping[str, Any], body: Mapping[str, Any]) -> Live:
        """Take note of what our apply left behind."""
        self._applied[ref] = (digest(manifest, 32), fingerprint(body))
        return self.see(key, ref, body)

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
        """Whether the live object still is what our last apply of this very manifest left behind."""
        live = self._live.get(ref)
        return live is not None and self._applied.get(ref) == (digest(manifest, 32), live.fingerprint)

    def missing_from(self, kind: Kind, listed: Collection[tuple[str, str]]) -> tuple[tuple[Key, Ref], ...]:
        """Objects that are not in a complete listing of (namespace, name): deletions that the watch missed."""
        return tuple(
            (key, ref)
            for key, refs in self._by_key.items()
            for ref in refs
            if ref[0] is kind and (ref[1], ref[2]) not in listed
        )
