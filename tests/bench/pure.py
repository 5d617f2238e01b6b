"""CPU of the pure part of one pass: from the resource as it is kept to its manifests, their digests and its status."""

from __future__ import annotations

import time
from typing import Any

from bench.figures import Figure, quantile
from planning import fleet_offers
from vllm_operator.api.parse import parse
from vllm_operator.keeping import recorded
from vllm_operator.naming import Key
from vllm_operator.ownership import manifest_digest
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.render import render
from vllm_operator.resources import Resources
from vllm_operator.status import make_status
from vllm_operator.status.observation import Observation, Preload, Rollout

GOAL_MS = 2.0
_TIMES = 200
_KEY = Key("bench", "bench")
_NOW = "2026-01-01T00:00:00Z"


def _once(kept: Resources, facts: Facts, previous: dict[str, Any]) -> dict[str, Any]:
    body = kept.body(_KEY)
    assert body
    plan = make_plan(parse(body), Defaults(), facts)
    for manifest in render(plan):
        manifest_digest(recorded(manifest))
    seen = Observation(plan, Rollout(exists=True, current=True, wanted=1), Preload(exists=True, complete=True))
    return make_status(seen, previous, _NOW)


def measure(body: dict[str, Any]) -> list[Figure]:
    """The median over many passes, in ms of CPU, after a few for whatever is cached."""
    body = {**body, "metadata": {**body["metadata"], "uid": "u1", "generation": 1, "resourceVersion": "1"}}
    facts, previous = Facts(offers=fleet_offers()), dict[str, Any]()
    kept = Resources()
    kept.see(_KEY, body)
    times: list[float] = []
    for _ in range(_TIMES):
        started = time.process_time()
        previous = _once(kept, facts, previous)
        times.append((time.process_time() - started) * 1000)
    return [Figure("CPU of the pure part of a pass, median", quantile(times[_TIMES // 4 :], 0.5), "ms", GOAL_MS)]
