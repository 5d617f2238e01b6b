"""Annotating pods that somebody else creates, so that a test decides how they end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for

_NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_EFFECT_DEADLINE_SECONDS = 30.0


@contextmanager
def annotate(
    kubectl: Kubectl, name: str, annotations: Mapping[str, str], match_labels: Mapping[str, str]
) -> Iterator[None]:
    """Add `annotations` to every pod with `match_labels` that is created in kubectl's namespace meanwhile.

    The API server does it, by a MutatingAdmissionPolicy called `name` that is removed at the end.
    """
    if kubectl.namespace is None:
        raise ValueError("annotate needs a kubectl that is bound to a namespace")
    policy, binding = _policy(name, annotations), _binding(name, kubectl.namespace, match_labels)
    kubectl("create", "--filename=-", input=[policy, binding])
    try:
        wait_for(lambda: in_effect(kubectl, annotations, match_labels), _EFFECT_DEADLINE_SECONDS, f"policy {name}")
        yield
    finally:
        kinds = ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy")
        for kind in kinds:
            kubectl("delete", kind, name, "--ignore-not-found")


def in_effect(kubectl: Kubectl, annotations: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Ask the API server, without creating anything, what a matching pod would become."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "localcluster-probe", "labels": dict(labels)},
        "spec": {"containers": [_PROBE_CONTAINER], "securityContext": _PROBE_SECURITY},
    }
    made = kubectl("create", "--dry-run=server", "--output=json", "--filename=-", input=pod).stdout
    return all(value in made for value in annotations)


# Passes the strictest Pod Security level.
_PROBE_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_PROBE_CONTAINER = {
    "name": "probe",
    "image": "probe",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}


def _policy(name: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    pairs = ", ".join(f"{_cel(key)}: {_cel(value)}" for key, value in annotations.items())
    expression = f"Object{{metadata: Object.metadata{{annotations: {{{pairs}}}}}}}"
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
                ]
            },
            "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}},
            ],
        },
    }


def _cel(text: str) -> str:
    """Return `text` as a CEL string literal (the escapes of a double-quoted one are JSON's)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _binding(name: str, namespace: str, match_labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "matchResources": {
                "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: namespace}},
                "objectSelector": {"matchLabels": dict(match_labels)},
            },
        },
    }
