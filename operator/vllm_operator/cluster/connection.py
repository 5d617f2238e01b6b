"""Where the API server is and how to prove who we are: inside a cluster, or by a kubeconfig."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from vllm_operator.errors import UsageError

# What the client's loader raises on files that are missing, no YAML, or YAML of another shape.
_UNUSABLE = (ConfigException, OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Connection:
    """What another client (kopf) needs to speak to the same server as the same user; paths are local files."""

    server: str
    ca_path: str | None
    insecure: bool
    certificate_path: str | None
    private_key_path: str | None
    scheme: str | None
    token: str | None
    proxy_url: str | None


def _in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def _default_kubeconfig() -> str:
    return str(Path.home() / ".kube" / "config")


async def load(configuration: Configuration, kubeconfig: str | None, context: str | None) -> None:
    """Fill a client configuration, in controller-runtime's order: flag, $KUBECONFIG, in-cluster, ~/.kube/config.

    Raises UsageError when there is none, or it cannot be used.
    """
    path = kubeconfig or os.environ.get("KUBECONFIG")
    try:
        if not path and not context and _in_cluster():
            load_incluster_config(client_configuration=configuration)
            return
        path = path or _default_kubeconfig()
        await load_kube_config(path, context, client_configuration=configuration, persist_config=False)
    except _UNUSABLE as error:
        source = f"the kubeconfig {path}" if path else "the service account of this pod"
        raise UsageError(f"Cannot connect with {source}: {' '.join(str(error).split())}") from error


async def describe(configuration: Configuration) -> Connection:
    """The same credentials for another client, refreshed."""
    header = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.rpartition(" ")
    return Connection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme or None,
        token=token or None,
        proxy_url=configuration.proxy,
    )
