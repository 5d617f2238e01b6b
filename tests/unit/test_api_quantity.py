"""Quantities of bytes."""

from __future__ import annotations

import pytest

from vllm_operator.api.quantity import in_gib, to_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("5", 5),
        ("+5", 5),
        ("80Gi", 80 * 2**30),
        ("24564Mi", 24564 * 2**20),
        ("1.5k", 1500),
        ("0.5Ti", 2**39),
        ("3E", 3 * 10**18),
        ("1e3", 1000),
        ("2E6", 2_000_000),
        ("1500m", 2),
        ("0.1", 1),
    ],
)
def test_to_bytes(text: str, expected: int) -> None:
    assert to_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "80GB", "80 Gi", "-5", "1e", "Gi", "80Gi\n", "1_000", "٣"])
def test_to_bytes_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a Kubernetes quantity such as 80Gi or 500Mi"):
        to_bytes(text)


@pytest.mark.parametrize(("count", "expected"), [(0, "0Gi"), (1, "1Gi"), (2**30, "1Gi"), (2**30 + 1, "2Gi")])
def test_in_gib_rounds_up(count: int, expected: str) -> None:
    assert in_gib(count) == expected
