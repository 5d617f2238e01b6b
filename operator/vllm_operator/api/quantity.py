"""Kubernetes quantities (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/)."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_SUFFIXES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(r"[+]?([0-9]+(?:\.[0-9]+)?)(?:([KMGTPE]i|[kMGTPE]|m)|[eE]([0-9]{1,2}))?")


def to_number(text: str) -> Decimal:
    """The number that a quantity stands for; ValueError when it is none."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a Kubernetes quantity such as 80Gi or 500Mi")
    number, suffix, exponent = match.groups()
    scale = Decimal(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""]
    return Decimal(number) * scale


def to_bytes(text: str) -> int:
    """Bytes that a quantity stands for, rounded up to whole ones; ValueError when it is none."""
    return int(to_number(text).to_integral_value(ROUND_CEILING))


def in_gib(count: int) -> str:
    """The smallest whole number of GiB that holds `count` bytes, as a quantity."""
    return f"{-(-count // 2**30)}Gi"
