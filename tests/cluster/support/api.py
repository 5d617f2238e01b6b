"""A client of the API server that hides nothing and is quick enough to poll; kubectl takes a hundred times as long."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import config
from kubernetes.client import Configuration

from vllm_operator.kinds import BY_NAME, Kind

Manifest = dict[str, Any]
Manifests = list[Manifest]
Patch = Iterable[Mapping[str, Any]]

NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
SECRET = Kind("v1", "Secret", "secrets")
QUOTA = Kind("v1", "ResourceQuota", "resourcequotas")
REPLICA_SET = Kind("apps/v1", "ReplicaSet", "replicasets")
PRIORITY_CLASS = Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", namespaced=False)
_OTHERS = {(kind.api_version, kind.kind): kind for kind in (NAMESPACE, SECRET, QUOTA, REPLICA_SET, PRIORITY_CLASS)}

_TIMEOUT = urllib3.Timeout(connect=30, read=120)


class ApiError(Exception):
    """The API server's refusal, in its own words."""

    def __init__(self, call: str, code: int, text: str) -> None:
        self.code = code
        super().__init__(f"{call}: {code} {text}")


def kind_of(manifest: Mapping[str, Any]) -> Kind:
    """Return the kind that a manifest names."""
    name = (manifest["apiVersion"], manifest["kind"])
    return BY_NAME.get(name) or _OTHERS[name]


def path_of(kind: Kind, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
    """Return the path of a collection, an object or a subresource."""
    root = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
    scope = f"/namespaces/{namespace}" if kind.namespaced and namespace else ""
    return "/".join(part for part in (f"{root}{scope}/{kind.plural}", name, subresource) if part)


class Api:
    """The API server as the user of a kubeconfig sees it. Safe to share between threads."""

    def __init__(self, kubeconfig: Path) -> None:
        access = Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=access, persist_config=False)
        self._server = str(access.host)
        token = access.get_api_key_with_prefix("BearerToken")
        self._headers = {"Authorization": token} if token else {}
        self._pool = urllib3.PoolManager(
            maxsize=8, ca_certs=access.ssl_ca_cert, cert_file=access.cert_file, key_file=access.key_file, retries=False
        )

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:  # noqa: ANN401 - any object
        """Make a request and return the decoded answer; ApiError when it is refused."""
        headers = self._headers | {"Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        answer = self._pool.request(method, self._server + path, body=data, headers=headers, timeout=_TIMEOUT)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise ApiError(f"{method} {path}", answer.status, _message(answer.data))
        return json.loads(answer.data)

    def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        """Return an object, or None where there is none."""
        try:
            found: Manifest = self.call("GET", path_of(kind, namespace, name))
        except ApiError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise
        return found

    def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Manifests:
        """Return the objects of a kind, each with its apiVersion and kind."""
        query = f"?{urlencode({'labelSelector': selector})}" if selector else ""
        found: Manifests = self.call("GET", path_of(kind, namespace) + query)["items"] or []
        return [{"apiVersion": kind.api_version, "kind": kind.kind, **one} for one in found]

    def create(self, manifest: Manifest, namespace: str | None = None) -> Manifest:
        """Create an object and return it."""
        created: Manifest = self.call("POST", path_of(kind_of(manifest), namespace), manifest)
        return created

    def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str = "") -> Manifest:
        """Apply a JSON merge patch and return the object."""
        path = path_of(kind, namespace, name, subresource)
        patched: Manifest = self.call("PATCH", path, patch, "application/merge-patch+json")
        return patched

    def edit(self, kind: Kind, namespace: str, name: str, patch: Patch) -> Manifest:
        """Apply a JSON patch (RFC 6902) and return the object."""
        path = path_of(kind, namespace, name)
        patched: Manifest = self.call("PATCH", path, list(patch), "application/json-patch+json")
        return patched

    def delete(self, kind: Kind, namespace: str, name: str, policy: str = "Background") -> None:
        """Ask for the deletion of an object; its dependents go as `policy` says."""
        self.call("DELETE", path_of(kind, namespace, name), {"propagationPolicy": policy})

    def history(self, kind: Kind, namespace: str, name: str, since: str) -> Manifests:
        """Return every state that an object went through after resource version `since`, oldest first."""
        query = {
            "watch": "true",
            "resourceVersion": since,
            "timeoutSeconds": "1",
            "fieldSelector": f"metadata.name={name}",
        }
        path = f"{path_of(kind, namespace)}?{urlencode(query)}"
        answer = self._pool.request("GET", self._server + path, headers=self._headers, timeout=_TIMEOUT)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise ApiError(f"GET {path}", answer.status, _message(answer.data))
        return [json.loads(line)["object"] for line in answer.data.splitlines()]


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")
