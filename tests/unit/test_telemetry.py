"""What is on the page of metrics after things were counted, and that it stays small."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vllm_operator import kinds, telemetry
from vllm_operator.naming import Key
from vllm_operator.telemetry import METRICS, RESULTS, Telemetry

KEY = Key("team", "chat")
Labels = frozenset[tuple[str, str]]


def samples(counted: Telemetry) -> dict[tuple[str, Labels], float]:
    """Every sample of the page by name and labels."""
    families = text_string_to_metric_families(counted.page().decode())
    return {
        (sample.name.removeprefix("vllm_operator_"), frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(counted: Telemetry, name: str, **labels: str) -> float | None:
    return samples(counted).get((name, frozenset(labels.items())))


def status(phase: str = "Ready", reason: str = "Available", drift: float | None = None) -> dict[str, Any]:
    conditions = [{"type": "Accepted", "reason": "Valid"}, {"type": "Ready", "reason": reason}]
    measured = {} if drift is None else {"measured": {"driftPercent": drift}}
    return {"phase": phase, "conditions": conditions, "sizing": measured}


def test_requests_by_verb_resource_and_code() -> None:
    counted = Telemetry()
    counted.called("patch", "deployments", "200", 0.02)
    counted.called("patch", "deployments", "200", 0.2)
    counted.called("get", "vllmdeployments", "error", 30)
    assert value(counted, "api_requests_total", verb="patch", resource="deployments", code="200") == 2
    assert value(counted, "api_requests_total", verb="get", resource="vllmdeployments", code="error") == 1
    assert value(counted, "api_request_duration_seconds_sum", verb="patch") == pytest.approx(0.22)
    assert value(counted, "api_request_duration_seconds_bucket", verb="patch", le="0.025") == 1


def test_passes_by_result_from_nought() -> None:
    counted = Telemetry()
    assert {value(counted, "reconcile_duration_seconds_count", result=result) for result in RESULTS} == {0}
    counted.passed("blocked", 0.03, retried=True)
    counted.passed("written", 0.03, retried=False)
    assert value(counted, "reconcile_duration_seconds_count", result="blocked") == 1
    assert value(counted, "workqueue_retries_total") == 1


def test_applies_and_events_by_kind() -> None:
    counted = Telemetry()
    counted.applied(kinds.DEPLOYMENT, changed=True)
    counted.applied(kinds.DEPLOYMENT, changed=False)
    counted.saw(kinds.POD)
    assert value(counted, "applies_total", kind="Deployment", result="changed") == 1
    assert value(counted, "applies_total", kind="Deployment", result="unchanged") == 1
    assert value(counted, "watch_events_total", kind="Pod") == 1


def test_resources_are_counted_as_the_last_pass_left_them_and_forgotten() -> None:
    counted = Telemetry()
    counted.stands(KEY, status("Starting", "PodsNotReady"))
    counted.stands(KEY, status())
    counted.stands(Key("team", "other"), status())
    counted.stands(Key("team", "third"), status("Refused", "ModelTooLarge"))
    assert value(counted, "resources", phase="Ready", reason="Available") == 2
    assert value(counted, "resources", phase="Refused", reason="ModelTooLarge") == 1
    assert value(counted, "resources", phase="Starting", reason="PodsNotReady") is None
    counted.forget(KEY)
    assert value(counted, "resources", phase="Ready", reason="Available") == 1
    counted.forget(KEY)


def test_reasons_stay_few_whatever_they_are() -> None:
    counted = Telemetry()
    for number in range(1000):
        counted.stands(Key("team", f"n{number}"), status("Degraded", f"Reason{number // 2}"))
    found = [count for (name, _), count in samples(counted).items() if name == "resources"]
    assert (len(found), sum(found)) == (100, 1000)
    assert value(counted, "resources", phase="Other", reason="Other") == 802


def test_drift_is_told_where_it_matters_and_of_so_many_only() -> None:
    counted = Telemetry()
    for number in range(300):
        counted.stands(Key("team", f"n{number}"), status(drift=-float(number) / 2))
    found = {labels: drift for (name, labels), drift in samples(counted).items() if name == "sizing_drift_percent"}
    assert len(found) == 100
    assert max(found.values()) == -100.0
    assert value(counted, "sizing_drift_percent", vllmdeployment="team/n299") == -149.5
    counted.stands(Key("team", "n299"), status(drift=3.0))
    assert value(counted, "sizing_drift_percent", vllmdeployment="team/n299") is None
    counted.forget(Key("team", "n298"))
    assert value(counted, "sizing_drift_percent", vllmdeployment="team/n298") is None


def test_small_drifts_have_no_series() -> None:
    counted = Telemetry()
    counted.stands(KEY, status(drift=9.9))
    assert value(counted, "sizing_drift_percent", vllmdeployment="team/chat") is None


def test_gauges_are_read_when_the_page_is() -> None:
    counted, depth = Telemetry(), [3]
    counted.read(telemetry.QUEUE_DEPTH, lambda: depth[0])
    assert value(counted, "workqueue_depth") == 3
    depth[0] = 4
    assert value(counted, "workqueue_depth") == 4


def test_two_pages_in_one_process_share_nothing() -> None:
    one, other = Telemetry(), Telemetry()
    one.saw(kinds.POD)
    assert value(other, "watch_events_total", kind="Pod") is None


def everything() -> Telemetry:
    """Telemetry that was told of everything once."""
    counted = Telemetry()
    for metric in (telemetry.QUEUE_DEPTH, telemetry.QUEUE_AGE, telemetry.RUNNING, telemetry.LONGEST_RUN):
        counted.read(metric, lambda: 0)
    counted.read(telemetry.LEADER, lambda: True)
    counted.read(telemetry.LAG, lambda: 0.1)
    counted.called("get", "nodes", "200", 0.1)
    counted.passed("written", 0.1, retried=True)
    counted.applied(kinds.DEPLOYMENT, changed=True)
    counted.saw(kinds.POD)
    counted.lagged(0.1)
    counted.stands(KEY, status(drift=50.0))
    return counted


def test_the_list_of_metrics_is_what_the_page_holds() -> None:
    families = {
        family.name: (family.type, family.documentation, {name for one in family.samples for name in one.labels})
        for family in text_string_to_metric_families(everything().page().decode())
        if family.name.startswith("vllm_operator_")
    }
    listed = {
        metric.full_name.removesuffix("_total"): (
            metric.type,
            metric.help,
            {*metric.labels, *(("le",) if metric.type == "histogram" else ())},
        )
        for metric in METRICS
    }
    assert families == listed


def test_beside_them_are_those_of_every_python_process() -> None:
    names = {family.name for family in text_string_to_metric_families(everything().page().decode())}
    others = {name for name in names if not name.startswith("vllm_operator_")}
    assert {"process_start_time_seconds", "process_resident_memory_bytes", "python_gc_collections"} <= others
    assert not [name for name in names if name.endswith("_created")]


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"vllm_operator_[a-z_]+", metric.full_name)
        assert (metric.type == "counter") == metric.name.endswith("_total")
        if metric.type == "histogram":
            assert metric.name.endswith("_seconds")
            assert list(metric.buckets) == sorted(metric.buckets)
