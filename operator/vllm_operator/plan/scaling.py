"""How many servers there are: HorizontalPodAutoscaler and PodDisruptionBudget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_operator import kinds
from vllm_operator.api.spec import Autoscaling, Spec
from vllm_operator.engine.profiles import Settings
from vllm_operator.naming import child_name, selector
from vllm_operator.plan.types import Child

_WAITING = 5  # requests waiting per replica: zero until it is full, so a small number says enough
_KV_CACHE_PERCENT = 80
_BUSY_SHARE = 0.7  # of the sequences that fit into a batch

# Scale up quickly, down slowly: a replica takes minutes to load.
BEHAVIOR: dict[str, Any] = {
    "scaleUp": {
        "stabilizationWindowSeconds": 60,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}],
    },
}


def target(asked: Autoscaling, chosen: Settings) -> int:
    """Wanted average per replica, in requests or percent."""
    defaults = {
        "InFlight": max(1, int(chosen.max_sequences * _BUSY_SHARE)),
        "Waiting": _WAITING,
        "KVCacheUsage": _KV_CACHE_PERCENT,
    }
    return asked.target or defaults[asked.metric]


def metrics(asked: Autoscaling, chosen: Settings) -> list[dict[str, str]]:
    """Pods metrics and their average values.

    vLLM's metrics carry a colon, which the metrics API cannot; adapters publish them with an underscore. Requests in
    flight are those running and those waiting: the autoscaler acts on whichever asks for more.
    """
    wanted = target(asked, chosen)
    if asked.metric == "KVCacheUsage":  # a gauge from 0 to 1
        return [{"name": "vllm_kv_cache_usage_perc", "average": f"{wanted * 10}m"}]
    waiting = {"name": "vllm_num_requests_waiting", "average": str(wanted if asked.metric == "Waiting" else _WAITING)}
    if asked.metric == "Waiting":
        return [waiting]
    return [{"name": "vllm_num_requests_running", "average": str(wanted)}, waiting]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mapping by mapping; lists and scalars are replaced."""
    both = dict(base)
    for key, value in over.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def autoscalers(spec: Spec, name: str, chosen: Settings) -> list[Child]:
    """The autoscaler, unless there is none or the resource is suspended."""
    asked = spec.autoscaling
    if asked is None or spec.suspend:
        return []
    values = {
        "deployment": child_name(name),
        "min_replicas": asked.min_replicas,
        "max_replicas": asked.max_replicas,
        "metrics": metrics(asked, chosen),
        "behavior": merged(BEHAVIOR, asked.behavior),
    }
    return [Child(kinds.AUTOSCALER, child_name(name), "autoscaler.yaml.j2", values)]


def disruption_budgets(spec: Spec, name: str) -> list[Child]:
    """One replica at a time may be evicted; a single replica must stay evictable, or nodes could not be drained."""
    if spec.most_replicas <= 1:
        return []
    return [Child(kinds.DISRUPTION_BUDGET, child_name(name), "disruption-budget.yaml.j2", {"selector": selector(name)})]
