"""The loop closed: what vLLM reports of its KV cache stands beside the prediction, and is told when outside of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllm_operator.api.parse import parse
from vllm_operator.api.status import Status
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.status import Observation, make_status, notices

NOW = "2026-01-01T00:00:00Z"


def observation(**engine: object) -> Observation:
    spec = {"model": {"source": "hf://Qwen/Qwen3-8B"}, "gpu": {"product": "NVIDIA-L40S"}, "engine": engine}
    return Observation(make_plan(parse({"metadata": {"name": "x"}, "spec": spec}), Defaults(), Facts()))


def page(tokens: int) -> str:
    labels = f'block_size="16",kv_cache_size_tokens="{tokens}",kv_cache_max_concurrency="2.5",num_gpu_blocks="9"'
    return f"# HELP vllm:cache_config_info\nvllm:cache_config_info{{{labels}}} 1.0\n"


def band(seen: Observation) -> tuple[int, int]:
    assert seen.plan.sizing is not None
    assert seen.plan.sizing.kv_tokens is not None
    return int(seen.plan.sizing.kv_tokens.low), int(seen.plan.sizing.kv_tokens.high)


def test_measured_stands_beside_predicted() -> None:
    seen = observation()
    low, high = band(seen)
    middle = (low + high) // 2
    status = make_status(replace(seen, metrics=page(middle)), {}, NOW)
    assert status["sizing"]["measured"] == {"kvTokens": middle, "maxConcurrency": 2.5, "driftPercent": 0.0}
    Status.model_validate(status)


def test_measurement_outlives_a_pass_that_reads_none() -> None:
    seen = observation()
    first = make_status(replace(seen, metrics=page(1000)), {}, NOW)
    assert make_status(seen, first, NOW) == first


def test_measurement_of_other_servers_is_dropped() -> None:
    first = make_status(replace(observation(), metrics=page(1000)), {}, NOW)
    assert "measured" not in make_status(observation(enforceEager=True), first, NOW)["sizing"]


@pytest.mark.parametrize(("tokens", "told"), [("low", False), ("high", False), ("below", True), ("above", True)])
def test_drift_outside_the_band_is_told(tokens: str, told: bool) -> None:  # noqa: FBT001
    seen = observation()
    low, high = band(seen)
    measured = {"low": low, "high": high, "below": low // 2, "above": high * 2}[tokens]
    seen = replace(seen, metrics=page(measured))
    found = {notice.reason: notice for notice in notices(seen, {}, make_status(seen, {}, NOW))}
    assert ("SizingDrift" in found) is told
    if told:
        assert found["SizingDrift"].kind == "Warning"
        assert "fewer" in found["SizingDrift"].message if measured < low else "more" in found["SizingDrift"].message
