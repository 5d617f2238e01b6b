"""Laws of quantities: a number in any spelling is the same number of bytes."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from vllm_operator.api.quantity import in_gib, to_bytes

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
numbers = st.integers(0, 10**6)


@given(numbers, st.sampled_from(sorted(UNITS)))
def test_a_unit_multiplies(number: int, unit: str) -> None:
    assert to_bytes(f"{number}{unit}") == number * UNITS[unit]
    assert to_bytes(f"+{number}{unit}") == to_bytes(f"{number}.0{unit}") == number * UNITS[unit]


@given(numbers, st.integers(0, 999), st.sampled_from(sorted(UNITS)))
def test_fractions_are_rounded_up(whole: int, thousandths: int, unit: str) -> None:
    exact = (Decimal(whole) + Decimal(thousandths) / 1000) * UNITS[unit]
    assert 0 <= to_bytes(f"{whole}.{thousandths:03}{unit}") - exact < 1


@given(numbers, st.integers(0, 12))
def test_an_exponent_is_a_power_of_ten(number: int, exponent: int) -> None:
    assert to_bytes(f"{number}e{exponent}") == to_bytes(f"{number}E{exponent}") == number * 10**exponent


@given(st.integers(0, 2**60))
def test_gib_hold_what_they_are_made_for_and_not_a_whole_one_more(count: int) -> None:
    assert 0 <= to_bytes(in_gib(count)) - count < 2**30
    assert in_gib(to_bytes(in_gib(count))) == in_gib(count)
