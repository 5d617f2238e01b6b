"""Figures in a page of Prometheus text (https://prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

import re

import httpx

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def page(url: str) -> str:
    """Return what a server says on /metrics."""
    answer = httpx.get(f"{url}/metrics", timeout=30)
    answer.raise_for_status()
    return answer.text


def total(url: str, name: str) -> float:
    """Return the sum of a metric over its labels; KeyError where the page does not have it."""
    values = [float(found["value"]) for found in _SAMPLE.finditer(page(url)) if found["name"] == name]
    if not values:
        raise KeyError(f"{url}/metrics has no {name}")
    return sum(values)


def labels(url: str, name: str) -> dict[str, str]:
    """Return the labels of the first sample of a metric; KeyError where the page does not have it."""
    for found in _SAMPLE.finditer(page(url)):
        if found["name"] == name:
            return dict(_LABEL.findall(found["labels"] or ""))
    raise KeyError(f"{url}/metrics has no {name}")
