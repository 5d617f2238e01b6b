"""Failures of the hub and of the cluster, in which vLLM does not matter: the server is one of three lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from node.support import broken
from node.support.broken import GATED, UNKNOWN_QUANTIZATION
from node.support.specs import ANSWERS, SLOWLY, SMALL, own
from node.support.stories import Act, Failure, Patient, Story
from node.support.workloads import TOOLS_IMAGE, claim
from vllm_operator import kinds


def hub_story(endpoint: str, comes_back: Callable[[], object]) -> Story:
    """What can keep a model from being looked at and fetched; the hub at `endpoint` is absent until it comes back."""
    model = {
        "source": "hf://acme/mistyped",
        "revision": "v9",
        "tokenSecretRef": {"name": "hf-token", "key": "token"},
        "files": {"include": ["*.json"]},
    }
    failures = (
        Failure(
            "token-missing", "CreateContainerConfigError", "Create it, or correct", _token("hf_wrong"), stalled=False
        ),
        Failure("hub-unreachable", "HubUnreachable", "check HF_ENDPOINT", lambda _: comes_back(), stalled=False),
        Failure("token-wrong", "TokenRefused", "put a valid token", _token(broken.READER_TOKEN), stalled=True),
        Failure(
            "repository-missing",
            "ModelNotFound",
            "check its name",
            {"model": {"source": f"hf://{GATED}"}},
            stalled=True,
        ),
        Failure(
            "revision-missing",
            "RevisionNotFound",
            "name a branch, a tag or a commit",
            {"model": {"revision": None}},
            stalled=True,
        ),
        Failure("gated", "ModelGated", "ask for it at", _token(broken.MEMBER_TOKEN), stalled=True),
        Failure("weights-left-out", "WeightsMissing", "spec.model.files", {"model": {"files": None}}, stalled=True),
    )
    return Story("hub", own(endpoint, {"model": model}), failures)


def _token(value: str) -> Act:
    """Put a token into the Secret, and let the Job that has failed for lack of it run again."""

    def give(patient: Patient) -> None:
        patient.secret("hf-token", token=value)
        patient.delete_job("inspect")

    return give


def quantization_story(hub: str) -> Story:
    """What nobody knows the size of, which matters where there are GPUs to count."""
    heal = {"model": {"facts": {"parameters": 0.001}}, "gpu": {"count": 0}}
    failure = Failure(
        "unknown-quantization", "ConfigUnreadable", "say its numbers in spec.model.facts", heal, stalled=True
    )
    return Story(
        "quantization", own(hub, {"model": {"source": f"hf://{UNKNOWN_QUANTIZATION}"}, "gpu": {"count": 1}}), [failure]
    )


def cache_stories(hub: str) -> list[Story]:
    """Volumes that are too small, not writable, or not to be had."""
    cache = {"size": "auto", "reclaimPolicy": "Retain"}
    small = Failure("no-space", "NoSpace", "name a larger claim in spec.cache.claimName", _larger_claim, stalled=True)
    foreign = Failure(
        "not-writable", "CacheNotWritable", "mount the cache writable for user 1000", _hand_over, stalled=True
    )
    pending = Failure("no-such-class", "ClaimPending", "storage class", _other_class, stalled=False)
    return [
        Story("space", own(hub, {"cache": {"storageClassName": "tiny"}}), [small]),
        Story("foreign", own(hub, {"cache": {**cache, "claimName": "foreign"}}), [foreign], before=_foreign_claim),
        Story("class", own(hub, {"cache": {"storageClassName": "nobody"}}), [pending]),
    ]


def _larger_claim(patient: Patient) -> None:
    patient.apply(claim("roomy", mode="ReadWriteMany"))
    patient.service.edit(
        {"cache": {"claimName": "roomy", "storageClassName": None, "size": "auto", "reclaimPolicy": "Retain"}}
    )


def _foreign_claim(patient: Patient) -> None:
    """Make a claim with a folder of somebody else; at the top it has the rights that the kubelet looks for."""
    patient.apply(claim("foreign", mode="ReadWriteMany"))
    folder = patient.stage.cluster.claim_folder(patient.stage.kubectl, "foreign")
    (folder / "hub").mkdir(mode=0o755)
    os.chown(folder, 0, 1000)
    folder.chmod(0o2775)


def _hand_over(patient: Patient) -> None:
    folder = patient.stage.cluster.claim_folder(patient.stage.kubectl, "foreign")
    os.chown(folder / "hub", 1000, 1000)
    patient.delete_job("preload")


def _other_class(patient: Patient) -> None:
    patient.service.edit({"cache": {"storageClassName": "standard"}})
    patient.api.delete(kinds.CLAIM, patient.service.namespace, f"{patient.service.name}-cache")


def pod_stories(hub: str) -> list[Story]:
    """What the API server, the kubelet and the scheduler make no pod of, and a server that is slow to start."""
    told: tuple[tuple[str, Mapping[str, Any], tuple[Failure, ...]], ...] = (
        ("image", {"engine": {"image": "localcluster.test/none:1"}}, _image()),
        ("key", {"auth": {"apiKeySecretRef": {"name": "api-key"}}}, _key()),
        ("command", {"engine": {"command": ["/nowhere/server"]}}, _command()),
        ("admission", _server({"securityContext": {"runAsUser": 0}}), _admission()),
        ("mount", _mounted(), _mount()),
        ("slow", {"engine": {"command": SLOWLY}, "lifecycle": {"startupTimeoutSeconds": 60}}, _slow()),
    )
    return [Story(name, own(hub, faults), failures) for name, faults, failures in told]


def _image() -> tuple[Failure, ...]:
    heal = {"engine": {"image": TOOLS_IMAGE}}
    return (Failure("image-missing", "ImagePullBackOff", "Check the name in spec.engine.image", heal, stalled=False),)


def _key() -> tuple[Failure, ...]:
    """The Secret is not there; then it is there, and the key in it is not."""
    reason = "CreateContainerConfigError"
    return (
        Failure(
            "secret-missing",
            reason,
            "the secret api-key, which does not exist in the namespace. Create it",
            lambda patient: patient.secret("api-key", other="x"),
            stalled=False,
        ),
        Failure(
            "key-missing",
            reason,
            "has no key api-key. Add the key",
            lambda patient: patient.secret("api-key", **{"api-key": "x"}),
            stalled=False,
        ),
    )


def _command() -> tuple[Failure, ...]:
    heal = {"engine": {"command": ANSWERS}}
    return (Failure("no-such-command", "StartError", "Correct spec.engine.command", heal, stalled=True),)


def _admission() -> tuple[Failure, ...]:
    return (Failure("not-admitted", "ReplicaFailure", "must not set runAsUser=0", _server({}), stalled=False),)


def _server(more: Mapping[str, Any]) -> dict[str, Any]:
    return {"podTemplate": {"spec": {"containers": [{"name": "vllm", "resources": SMALL, **more}]}}}


def _mounted() -> dict[str, Any]:
    faults = _server({"volumeMounts": [{"name": "settings", "mountPath": "/settings"}]})
    faults["podTemplate"]["spec"]["volumes"] = [{"name": "settings", "configMap": {"name": "settings"}}]
    return faults


def _mount() -> tuple[Failure, ...]:
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "b"}}
    return (
        Failure(
            "volume-missing",
            "FailedMount",
            "needs the configmap settings, which does not exist. Create it",
            lambda patient: patient.apply(settings),
            stalled=False,
        ),
    )


def _slow() -> tuple[Failure, ...]:
    heal = {"lifecycle": {"startupTimeoutSeconds": 300}}
    return (Failure("too-slow", "StartupTimeout", "Raise spec.lifecycle.startupTimeoutSeconds", heal, stalled=False),)
