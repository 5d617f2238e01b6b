"""Objects of the Prometheus operator and Grafana."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from vllm_operator import kinds
from vllm_operator.api.spec import Spec
from vllm_operator.engine.source import served_names
from vllm_operator.naming import child_name, selector
from vllm_operator.plan.types import Child

# Stands in the data files for the label matchers of one service.
SERIES = "$SERIES"


@cache
def _table(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((files("vllm_operator.plan") / "data" / name).read_text())
    return found


def series(spec: Spec, namespace: str) -> str:
    """Label matchers that select the metrics of one service: vLLM's own label and the scrape target's namespace."""
    return f"namespace={json.dumps(namespace)},model_name={json.dumps(served_names(spec.model)[0])}"


def alerts(matchers: str) -> list[dict[str, Any]]:
    """The alert rules with the matchers of one service."""
    return [{**rule, "expr": rule["expr"].replace(SERIES, matchers)} for rule in _table("alerts.yaml")]


def _panel(index: int, row: dict[str, Any], matchers: str) -> dict[str, Any]:
    queries = enumerate(row["queries"])
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": row["title"],
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": row["unit"]}, "overrides": []},
        "gridPos": {"h": 8, "w": 12, "x": 12 * (index % 2), "y": 8 * (index // 2)},
        "targets": [
            {"refId": "ABC"[number], "expr": query["expr"].replace(SERIES, matchers), "legendFormat": query["legend"]}
            for number, query in queries
        ],
    }


def dashboard(title: str, matchers: str) -> str:
    """A Grafana dashboard (schema version 39) as JSON: one time series panel per row of the table, two abreast."""
    panels = [_panel(index, row, matchers) for index, row in enumerate(_table("panels.yaml"))]
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    board = {"title": title, "schemaVersion": 39, "tags": ["vllm"], "templating": {"list": [source]}, "panels": panels}
    return json.dumps({**board, "time": {"from": "now-1h", "to": "now"}, "refresh": "30s"}, indent=1)


def monitoring(spec: Spec, name: str, namespace: str) -> list[Child]:
    """What `spec.monitoring` asks for."""
    asked, matchers, found = spec.monitoring, series(spec, namespace), []
    if asked.pod_monitor:
        found.append(Child(kinds.POD_MONITOR, child_name(name), "pod-monitor.yaml.j2", {"selector": selector(name)}))
    if asked.rules:
        rules = {"group": f"{namespace}/{name}", "rules": alerts(matchers)}
        found.append(Child(kinds.PROMETHEUS_RULE, child_name(name), "prometheus-rule.yaml.j2", rules))
    if asked.dashboard:
        board = {"data": {f"{child_name(name)}.json": dashboard(f"vLLM {namespace}/{name}", matchers)}}
        found.append(
            Child(kinds.CONFIG_MAP, child_name(name, "-dashboard"), "dashboard.yaml.j2", board, component="dashboard")
        )
    return found
