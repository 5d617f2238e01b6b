"""The operator's metrics beside what the API server saw, and the lines that it logged."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from cluster.support.arena import Arena, Launch
from cluster.support.service import Service
from localcluster.wait import wait_for
from operator_process import USER, OperatorProcess
from scraping import scrape
from vllm_operator.cluster.counting import DISCOVERY

TOO_LARGE = {"model": {"source": "hf://meta-llama/Llama-3.1-70B-Instruct"}, "gpu": {"count": 1, "product": "NVIDIA-L4"}}
Requests = Counter[tuple[str, str, str]]


def _audited(arena: Arena, since: int) -> Requests:
    """The operator's requests, as the API server wrote them down; of watches only those that have ended."""
    return Counter(
        (event.verb, "/".join(filter(None, (event.resource, event.subresource))) or DISCOVERY, str(event.code))
        for event in arena.cluster.audit_events(USER, since)
        if event.verb != "watch"
    )


def _counted(operator: OperatorProcess) -> Requests:
    found = scrape(operator.port).find("api_requests_total")
    asked = [one for one in found if one.labels["verb"] != "watch"]
    return Requests({(one.labels["verb"], one.labels["resource"], one.labels["code"]): int(one.value) for one in asked})


def _lines(operator: OperatorProcess, resource: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in operator.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("resource") == resource and "result" in line]


def test_metrics_after_real_passes(arena: Arena, arena_namespace: str, launch: Launch) -> None:
    mark, api = arena.cluster.audit_mark(), arena.api
    operator = launch(namespace=arena_namespace, log_format="json")
    good = Service.create(api, arena_namespace, "good")
    bad = Service.create(api, arena_namespace, "bad", TOO_LARGE)
    good.wait_ready()
    bad.wait("Sized", "False")
    refusal = bad.condition("Ready")["reason"]

    def same() -> bool:
        counted, audited = _counted(operator), _audited(arena, mark)
        assert counted == audited, (counted - audited, audited - counted)
        return True

    wait_for(same, message="what the operator counted is what the API server saw")
    assert _counted(operator)["patch", "vllmdeployments/status", "200"] >= 3

    page = scrape(operator.port)
    for plural in ("vllmdeployments", "deployments", "pods", "jobs"):
        assert page.total("api_requests_total", verb="watch", resource=plural, code="200") == 1
    assert page.total("is_leader") == 1
    assert page.total("resources", phase="Ready") == 1
    assert page.total("resources", phase="Refused", reason=refusal) == 1
    assert page.total("resources") == 2
    assert page.total("applies_total", kind="Deployment", result="changed") == 1
    assert page.total("applies_total", kind="VLLMDeployment", result="changed") >= 3
    assert page.total("applies_total", result="unchanged") == 0
    assert page.total("watch_events_total", kind="VLLMDeployment") >= 2
    assert page.total("watch_events_total", kind="Deployment") >= 2
    assert page.total("reconcile_duration_seconds_count", result="written") >= 3
    assert page.total("reconcile_duration_seconds_count", result="fault") == 0

    bad.delete()
    wait_for(lambda: scrape(operator.port).total("resources") == 1, message="what is gone is forgotten")
    (line,) = [one for one in _lines(operator, str(bad)) if one["result"] == "written"]
    assert (line["phase"], line["reason"], line["writes"]) == ("Refused", refusal, 1)
    assert line["seconds"] > 0
    (end,) = [one for one in _lines(operator, str(bad)) if one["result"] == "gone"]
    assert end["message"] == "gone"
    assert {one["phase"] for one in _lines(operator, str(good))} >= {"Ready"}


def test_what_is_blocked_says_why_once(arena: Arena, arena_namespace: str, launch: Launch) -> None:
    limits = {"hard": {"services": "0"}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": limits}
    kubectl = arena.cluster.kubectl.in_namespace(arena_namespace)
    kubectl.apply(quota)
    wait_for(lambda: "status" in (kubectl.get("resourcequota", "none") or {}), message="the quota is in force")
    operator = launch(namespace=arena_namespace, log_format="json")
    service = Service.create(arena.api, arena_namespace, "poor")
    service.wait("Ready", "False", "QuotaExceeded")
    blocked = {"result": "blocked"}
    wait_for(
        lambda: scrape(operator.port).total("reconcile_duration_seconds_count", **blocked) >= 3, message="two retries"
    )
    assert scrape(operator.port).total("workqueue_retries_total") >= 3
    lines = [one for one in _lines(operator, str(service)) if one["result"] == "blocked"]
    assert {one["reason"] for one in lines} == {"QuotaExceeded"}
    assert all("exceeded quota" in one["message"] for one in lines)
    assert [one for one in lines[1:] if not one["writes"]] == [], "a retry that changes nothing is no line"
