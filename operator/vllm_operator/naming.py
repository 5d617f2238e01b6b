"""Names, labels and annotations: every string by which objects find each other."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_operator.api import API_VERSION, GROUP, KIND
from vllm_operator.api.fields import is_subdomain

FIELD_MANAGER = "vllm-operator"
# Holds `spec.replicas` of a Deployment for a moment while its owner changes; see `plan.workload`.
HANDOVER_MANAGER = "vllm-operator-handover"
# Puts right, for a moment, what server-side apply cannot; see `cluster.Cluster.apply_alone`.
REPAIR_MANAGER = "vllm-operator-repair"

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
# Full name of the resource: labels are too short for it (63 against 253 characters).
RESOURCE_ANNOTATION = f"{GROUP}/resource"
# What the pod serves, so that a server is only replaced once the cache holds what the new one needs.
MODEL_ANNOTATION = f"{GROUP}/model-digest"
# The commit that the pod serves: a branch may have moved on since.
COMMIT_ANNOTATION = f"{GROUP}/commit"
# What the pod template was rendered from, so that a release that renders it differently lets running pods be.
INPUTS_ANNOTATION = f"{GROUP}/inputs"
# On a claim that outlives its resource: the files that it is known to hold, at a commit, by their digest.
HOLDS_ANNOTATION = f"{GROUP}/holds"
# Digest of the pod template as it was rendered, and after a dash as the API server wrote it where that is another.
TEMPLATE_ANNOTATION = f"{GROUP}/template"
# A module that the server's container runs: the text is the file.
DRAINING_ANNOTATION = f"{GROUP}/connection-draining"
# The container that serves, first of its pod; `podTemplate` lays over it by this name.
SERVER_CONTAINER = "vllm"
# The volume of servers and of the preload Job in which downloaded files lie.
CACHE_VOLUME = "cache"
# Set by the Job controller on the pods of a Job.
JOB_LABEL = "batch.kubernetes.io/job-name"

MAX_LABEL = 63  # RFC 1123 label; also the limit of label values


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A resource, by namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


def digest(value: object, length: int = 10) -> str:
    """The first hexadecimal digits of the SHA-256 of a JSON-like value; the same for equal values."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def child_name(name: str, suffix: str = "") -> str:
    """A DNS label of at most 63 characters for a child of the resource `name`, unique per (name, suffix).

    A name that already is one stays readable; any other (dots, leading digit, too long) is cut and carries a hash.
    """
    room = MAX_LABEL - len(suffix)
    if len(name) <= room and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        return name + suffix
    readable = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    if not readable[:1].isalpha():
        readable = f"v-{readable}"
    return f"{readable[: room - 11].rstrip('-')}-{digest(name)}{suffix}"


def selector(name: str) -> dict[str, str]:
    """Labels that select the server pods of a resource; they never change, so selectors stay valid for good."""
    return {
        "app.kubernetes.io/name": "vllm",
        INSTANCE: child_name(name),
        COMPONENT: "server",
    }


def labels(name: str, component: str) -> dict[str, str]:
    """Labels of every child."""
    return {
        "app.kubernetes.io/name": "vllm",
        INSTANCE: child_name(name),
        COMPONENT: component,
        MANAGED_BY: FIELD_MANAGER,
    }


def as_selector(pairs: Mapping[str, str]) -> str:
    """Labels in the form that `--selector` takes."""
    return ",".join(f"{key}={value}" for key, value in sorted(pairs.items()))


def owner_reference(name: str, uid: str) -> dict[str, Any]:
    """The controller reference that lets the garbage collector remove a child with its resource."""
    return {"apiVersion": API_VERSION, "kind": KIND, "name": name, "uid": uid, "controller": True}


def controller_of(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference that controls an object, if any."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def resource_of(metadata: Mapping[str, Any]) -> str | None:
    """Name of the resource that an object of ours belongs to; None for what can be no name, whoever wrote it there."""
    name = str((metadata.get("annotations") or {}).get(RESOURCE_ANNOTATION) or "")
    return name if is_subdomain(name) else None


def version_of(metadata: Mapping[str, Any]) -> int:
    """Resource versions of one resource type are comparable as integers (documented since Kubernetes 1.35)."""
    return int(metadata.get("resourceVersion") or 0)


def repair_entry(metadata: Mapping[str, Any]) -> int | None:
    """Where in `managedFields` a repair stands that was not ended; None when there is none.

    What it holds would outlast every later apply.
    """
    entries = metadata.get("managedFields") or ()
    return next((index for index, entry in enumerate(entries) if entry.get("manager") == REPAIR_MANAGER), None)
