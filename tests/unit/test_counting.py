"""Requests in the words of RBAC."""

import pytest

from vllm_operator.cluster.counting import verb_and_resource


@pytest.mark.parametrize(
    ("method", "path", "verb", "resource"),
    [
        ("GET", "/api/v1/nodes", "list", "nodes"),
        ("GET", "/api/v1/namespaces/a/pods", "list", "pods"),
        ("GET", "/api/v1/namespaces/a/pods/b/log", "get", "pods/log"),
        ("POST", "/api/v1/namespaces/a/events", "create", "events"),
        ("PATCH", "/apis/apps/v1/namespaces/a/deployments/b", "patch", "deployments"),
        (
            "PATCH",
            "/apis/vllm-operator.dev/v1alpha1/namespaces/a/vllmdeployments/b/status",
            "patch",
            "vllmdeployments/status",
        ),
        ("GET", "/apis/vllm-operator.dev/v1alpha1/vllmdeployments", "list", "vllmdeployments"),
        ("DELETE", "/apis/batch/v1/namespaces/namespaces/jobs/jobs", "delete", "jobs"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "update", "leases"),
        ("GET", "/apis/vllm-operator.dev/v1alpha1", "get", "discovery"),
        ("GET", "/api/v1", "get", "discovery"),
    ],
)
def test_verb_and_resource(method: str, path: str, verb: str, resource: str) -> None:
    assert verb_and_resource(method, path) == (verb, resource)
