"""Kubeconfig files: one cluster, one user, one context."""

import base64
from pathlib import Path
from typing import Any

import yaml


def write(path: Path, context: str, cluster: dict[str, Any], token: str) -> Path:
    """Write a kubeconfig readable by its owner only, in which `context` is the only and current context.

    Args:
        path: the file to write.
        context: name of context, cluster and user.
        cluster: the `cluster` entry (server, certificate-authority-data).
        token: bearer token of the user.
    """
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": context, "user": {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path


def cluster_entry(server: str, authority: Path) -> dict[str, Any]:
    """Return the `cluster` entry of a server whose certificates `authority` signs."""
    data = base64.b64encode(authority.read_bytes()).decode()
    return {"server": server, "certificate-authority-data": data}
