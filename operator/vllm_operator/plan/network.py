"""How servers are reached: Service, NetworkPolicy, and the account their pods run under."""

from __future__ import annotations

from typing import Any

from vllm_operator import kinds
from vllm_operator.api.spec import Spec
from vllm_operator.engine.arguments import PORT
from vllm_operator.naming import child_name, selector
from vllm_operator.plan.types import Child


def service(spec: Spec, name: str) -> Child:
    """The Service in front of the servers."""
    values = {
        "type": spec.service.type,
        "port": spec.service.port,
        "selector": selector(name),
    }
    return Child(kinds.SERVICE, child_name(name), "service.yaml.j2", values, annotations=dict(spec.service.annotations))


def endpoint(spec: Spec, name: str, namespace: str) -> str:
    """Address of the Service inside the cluster, without a path."""
    port = "" if spec.service.port == 80 else f":{spec.service.port}"  # noqa: PLR2004
    return f"http://{child_name(name)}.{namespace}.svc{port}"


def network_policies(spec: Spec, name: str) -> list[Child]:
    """A policy when one is asked for, or when there is an API key.

    vLLM's key guards /v1 only; /invocations, /metrics and others stay open to whoever reaches the port.
    """
    if spec.network_policy is None and spec.auth is None:
        return []
    peers: list[dict[str, Any]] = list(spec.network_policy.from_) if spec.network_policy else []
    values = {"selector": selector(name), "peers": peers or [{"podSelector": {}}], "port": PORT}
    return [Child(kinds.NETWORK_POLICY, child_name(name), "network-policy.yaml.j2", values)]


def service_account(name: str) -> Child:
    """An account without rights and without a token in the pod."""
    return Child(kinds.SERVICE_ACCOUNT, child_name(name), "service-account.yaml.j2", {})
