"""Whether a live object is what a manifest asks for: everything asked is there; the server may have added defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

# List items are matched by the first of these that tells them apart; other lists must be equal item by item.
_KEYS = ("name", "mountPath", "containerPort", "uid")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|[KMGTPE]i?|k)?")
_SUFFIXES = {"m": Decimal("0.001"), "k": Decimal(1000)}
_SUFFIXES |= {letter: Decimal(1000) ** power for power, letter in enumerate("KMGTPE", 1)}
_SUFFIXES |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}


def differences(wanted: object, live: object, path: str = "") -> list[str]:
    """Return where `live` is not what `wanted` asks for, as `path: wanted, live`; empty when it covers it."""
    return list(_differences(wanted, live, path))


def _differences(wanted: object, live: object, path: str) -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        for key, value in wanted.items():
            if _is_empty(value) and key not in live:
                continue
            yield from _differences(value, live.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(live, list):
        yield from _list_differences(wanted, live, path)
    elif wanted != live and not _same_quantity(wanted, live):
        yield f"{path}: wanted {wanted!r}, live {live!r}"


def _is_empty(value: object) -> bool:
    return value is None or value in ({}, [], "")


def _list_differences(wanted: Sequence[Any], live: Sequence[Any], path: str) -> Iterator[str]:
    key = _key_of(wanted)
    if key is None:
        if len(wanted) != len(live):
            yield f"{path}: wanted {wanted!r}, live {live!r}"
        for index, (one, other) in enumerate(zip(wanted, live, strict=False)):
            yield from _differences(one, other, f"{path}[{index}]")
        return
    by_key = {item.get(key): item for item in live}
    for item in wanted:
        yield from _differences(item, by_key.get(item[key]), f"{path}[{item[key]}]")


def _key_of(items: Sequence[Any]) -> str | None:
    for key in _KEYS:
        values = [item.get(key) for item in items if isinstance(item, Mapping)]
        if items and len(values) == len(items) and None not in values and len(set(values)) == len(values):
            return key
    return None


def _same_quantity(wanted: object, live: object) -> bool:
    """Whether two spellings mean the same amount: the API server writes `1024Mi` as `1Gi`."""
    first, second = (_QUANTITY.fullmatch(str(one)) for one in (wanted, live))
    return bool(first and second) and _amount(first) == _amount(second)


def _amount(found: re.Match[str] | None) -> Decimal:
    assert found is not None
    return Decimal(found[1]) * _SUFFIXES.get(found[2] or "", Decimal(1))
