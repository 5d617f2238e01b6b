"""Small manifests for tests that need some object of a kind."""

from typing import Any

from vllm_operator import kinds

Object = dict[str, Any]


def named(kind: kinds.Kind, namespace: str, spec: Object | None = None, **fields: object) -> Object:
    body: Object = {"apiVersion": kind.api_version, "kind": kind.kind, **fields}
    body["metadata"] = {"name": "one", "namespace": namespace, "labels": {"app": "one"}}
    return body if spec is None else {**body, "spec": spec}


def deployment(namespace: str, **spec: object) -> Object:
    template = {
        "metadata": {"labels": {"app": "one"}},
        "spec": {"containers": [{"name": "server", "image": "none.test/server:v1"}]},
    }
    return named(
        kinds.DEPLOYMENT, namespace, {"selector": {"matchLabels": {"app": "one"}}, "template": template, **spec}
    )


def claim(namespace: str, storage_class: str, size: str = "1Gi") -> Object:
    resources = {"requests": {"storage": size}}
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": storage_class, "resources": resources}
    return named(kinds.CLAIM, namespace, spec)


def config_map(namespace: str, **data: str) -> Object:
    return named(kinds.CONFIG_MAP, namespace, data=data)


def fields_v1(manifest: Object) -> Object:
    """The record that the API server keeps of an apply, as FieldsV1; lists are taken for atomic."""
    content = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind")}
    content["metadata"] = {key: value for key, value in content["metadata"].items() if key not in ("name", "namespace")}
    return _branches(content)


def _branches(value: object) -> Object:
    return {f"f:{key}": _branches(one) for key, one in value.items()} if isinstance(value, dict) else {}


def resource(namespace: str) -> Object:
    return named(kinds.RESOURCE, namespace, {"model": {"source": "hf://Qwen/Qwen3-8B"}})
