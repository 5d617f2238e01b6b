"""Alert rules and panels: every query is PromQL, and asks for series that exist, by labels that they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from vllm_operator.plan.monitoring import SERIES
from vllm_operator.telemetry import METRICS, RESULTS, Metric

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "vllm-operator"
RULES: list[dict[str, Any]] = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
DATA = ROOT / "operator" / "vllm_operator" / "plan" / "data"
# What Prometheus adds to everything that it scrapes of a pod.
OF_THE_TARGET = {"job", "namespace", "pod", "container", "instance"}
OF_PYTHON = {"process_start_time_seconds"}


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    """Every selector of a query; ValueError when it is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def grouped_by(query: str) -> set[str]:
    """Labels that a query aggregates by or matches on."""
    return {label for labels in re.findall(r"\b(?:by|on) \((.*?)\)", query) for label in labels.split(", ")}


def series() -> dict[str, Metric]:
    """Every series of the operator, with the metric that it belongs to."""
    found = {}
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",)
        found.update({metric.full_name + suffix: metric for suffix in suffixes})
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_of_the_operator_asks_for_what_there_is(rule: dict[str, Any]) -> None:
    known, found = series(), selectors(rule["expr"])
    assert found
    for selector in found:
        assert selector.name in {*known, *OF_PYTHON}
        labels = OF_THE_TARGET | set(known[selector.name].labels if selector.name in known else ())
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels
    assert grouped_by(rule["expr"]) <= OF_THE_TARGET
    for result in re.findall(r'result="(\w+)"', rule["expr"]):
        assert result in RESULTS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_of_the_operator_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"].endswith(".")
    promql_parser.parse_duration(rule.get("for", "1m"))


def _queries_of_a_service() -> Iterator[str]:
    for rule in yaml.safe_load((DATA / "alerts.yaml").read_text()):
        yield rule["expr"]
    for panel in yaml.safe_load((DATA / "panels.yaml").read_text()):
        yield from (query["expr"] for query in panel["queries"])


@pytest.mark.parametrize("query", [*_queries_of_a_service()])
def test_a_query_of_a_service_is_promql_and_asks_for_that_service_alone(query: str) -> None:
    found = selectors(query.replace(SERIES, 'namespace="a",model_name="b"'))
    assert found
    for selector in found:
        assert {matcher.name for matcher in selector.matchers.matchers} >= {"namespace", "model_name"}


def test_what_is_no_promql_is_noticed() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        selectors("sum by (job (x)")
