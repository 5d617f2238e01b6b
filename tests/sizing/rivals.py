"""KV cache that other tools' published formulas leave, on the same measured starts: `python -m sizing.rivals`.

KAITO (pkg/workspace/estimator/nodesestimator/estimator.go at 056b8280): 0.84 of the product's GB read as GiB,
less files * 1.02 + 2.3 GiB
and 5 % on top; the utilisation that was asked for is not heard. llm-d (src/planner/capacity_planner.py at
e50305af): utilisation of
total memory less weights and an activation that is constant by kind of model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from sizing.points import Point, model, points
from vllm_operator.sizing.weights import GIB

KAITO_UTILIZATION = 0.84
LLMD_ACTIVATION: Mapping[str, float] = {"Llama": 4.8, "Mistral": 4.8, "Phi3": 4.8, "Gemma2": 4.8, "Qwen": 5.6}
LLMD_EXPERTS = 8.0
PRODUCT_GB: Mapping[str, int] = {"NVIDIA-H200": 141, "NVIDIA-H100-80GB-HBM3": 80}


def kaito(one: Point) -> float:
    """GiB for the KV cache on one GPU."""
    capacity = PRODUCT_GB[one.measured["product"]] * KAITO_UTILIZATION
    return capacity - (one.weights * 1.02 + 2.3) * 1.05


def llmd(one: Point) -> float:
    """GiB for the KV cache on one GPU."""
    facts = model(one.measured["config"])
    named = next((value for word, value in LLMD_ACTIVATION.items() if facts.architecture.startswith(word)), 4.8)
    activation = LLMD_EXPERTS if facts.is_moe else named
    return one.stage.requested / GIB - one.weights - activation


def ours(one: Point) -> float:
    """The middle of the band."""
    return (one.low + one.high) / 2


FORMULAS: Mapping[str, Callable[[Point], float]] = {"vllm-operator": ours, "KAITO": kaito, "llm-d": llmd}


def main() -> int:
    """A line for every start, then the errors."""
    started = [one for one in points() if one.started and one.kv_bytes]
    print(f"{'point':<34}{'measured':>10}" + "".join(f"{name:>15}" for name in FORMULAS))
    errors: dict[str, list[float]] = {name: [] for name in FORMULAS}
    for one in started:
        measured = (one.kv_bytes or 0.0) / GIB
        cells = ""
        for name, formula in FORMULAS.items():
            value = formula(one)
            errors[name].append(value - measured)
            cells += f"{value:>8.2f}{value - measured:>+7.2f}"
        print(f"{one.name:<34}{measured:>10.2f}{cells}")
    for name, found in errors.items():
        mean, worst = sum(abs(error) for error in found) / len(found), max(found, key=abs)
        print(f"{name}: mean absolute error {mean:.2f} GiB, worst {worst:+.2f} GiB over {len(found)} starts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
