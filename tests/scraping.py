"""The operator's metrics as Prometheus would store them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "vllm_operator_"


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a page; our prefix is left out of its name."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Page:
    """All samples of a page."""

    samples: tuple[Sample, ...]

    def find(self, metric: str, /, **labels: str) -> list[Sample]:
        """Samples of a metric that have these labels, whatever else they have."""
        named = (one for one in self.samples if one.name == metric)
        return [one for one in named if labels.items() <= dict(one.labels).items()]

    def total(self, metric: str, /, **labels: str) -> float:
        """The sum of what `find` finds."""
        return sum(one.value for one in self.find(metric, **labels))


def parsed(text: str) -> Page:
    """A page of metrics in the text format."""
    return Page(
        tuple(
            Sample(sample.name.removeprefix(PREFIX), sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        )
    )


def get(port: int, path: str, timeout: float = 5.0) -> tuple[int, str]:
    """Status and text of what a port of this machine answers; OSError (TimeoutError) when it does not."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def scrape(port: int) -> Page:
    """The metrics of the operator whose health port that is, however busy its machine."""
    status, text = get(port, "/metrics", timeout=30.0)
    assert status == 200
    return parsed(text)
