"""What would start but not do what was asked for: refused, unless the spec says that it may try."""

from __future__ import annotations

import pytest

from vllm_operator.api.parse import parse
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts, Plan
from vllm_operator.sizing.types import Verdict


def plan(product: str, mode: str, model: str = "Qwen/Qwen3-8B-FP8") -> Plan:
    spec = {"model": {"source": f"hf://{model}"}, "gpu": {"product": product}, "sizing": {"mode": mode}}
    return make_plan(parse({"metadata": {"name": "x"}, "spec": spec}), Defaults(), Facts())


def test_fp8_on_a_card_that_unpacks_it_slowly_is_refused() -> None:
    refusal = plan("Tesla-T4", "Strict").refusal
    assert refusal is not None
    assert refusal.reason == "UnsupportedQuantization"
    assert "no FP8 arithmetic" in refusal.message
    assert "AWQ" in refusal.message


def test_advisory_lets_it_run_with_a_warning_and_a_shape() -> None:
    found = plan("Tesla-T4", "Advisory")
    assert found.refusal is None
    assert found.sizing is not None
    assert (found.sizing.verdict, found.sizing.gpus) == (Verdict.REFUSED, 1)
    assert [warning.reason for warning in found.warnings] == ["SizeNotSafe"]


@pytest.mark.parametrize("product", ["NVIDIA-A100-SXM4-40GB", "NVIDIA-L4", "NVIDIA-H100-80GB-HBM3"])
def test_cards_that_unpack_or_compute_it_are_not(product: str) -> None:
    assert plan(product, "Strict").refusal is None


def test_awq_on_the_same_card_is_not() -> None:
    assert plan("Tesla-T4", "Strict", "Qwen/Qwen2.5-7B-Instruct-AWQ").refusal is None
