"""At rest the operator writes nothing and asks nothing; a restart changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable

from cluster.support.api import NAMESPACE, Api
from cluster.support.samples import Samples
from localcluster.audit import AuditEvent
from localcluster.cluster import Cluster
from localcluster.wait import wait_for
from operator_process import USER, OperatorProcess
from scraping import scrape
from vllm_operator import kinds
from vllm_operator.naming import MANAGED_SELECTOR

SILENCE_SECONDS = 20.0
CALM_SECONDS = 3.0
CALM_DEADLINE_SECONDS = 90.0

Versions = dict[tuple[str, str, str], str]


def _versions(samples: Samples) -> Versions:
    """The resource version of every sample and every child of one."""
    found: Versions = {}
    selectors = {kinds.RESOURCE: "", **dict.fromkeys(kinds.CHILDREN, MANAGED_SELECTOR)}
    for kind, selector in selectors.items():
        if kind.optional:
            continue
        for one in samples.api.list(kind, samples.namespace, selector):
            metadata = one["metadata"]
            found[kind.kind, metadata["namespace"], metadata["name"]] = metadata["resourceVersion"]
    return found


def _requests(local_cluster: Cluster, since: int) -> list[AuditEvent]:
    """What the operator asked the API server beside its watches."""
    return [event for event in local_cluster.audit_events(USER, since) if event.verb != "watch"]


def _in_words(events: Iterable[AuditEvent]) -> list[str]:
    return [f"{event.verb} {event.uri}: {event.code}" for event in events]


def _await_calm(api: Api, local_cluster: Cluster) -> None:
    """Wait until nobody gives the operator anything to do: what other tests left behind is gone, and it rests."""

    def terminating() -> bool:
        return any(one["metadata"].get("deletionTimestamp") for one in api.list(NAMESPACE))

    def rests() -> bool:
        mark = local_cluster.audit_mark()
        time.sleep(CALM_SECONDS)
        return not _requests(local_cluster, mark)

    wait_for(lambda: not terminating(), CALM_DEADLINE_SECONDS, "no namespace is being deleted")
    wait_for(rests, CALM_DEADLINE_SECONDS, f"{CALM_SECONDS:g} s without a request")


def test_at_rest_the_operator_only_watches(samples: Samples, operator: OperatorProcess, local_cluster: Cluster) -> None:
    for service in samples.services():
        service.wait_ready()
    operator.restart()  # minutes until its next look at everything, which is no part of rest
    _await_calm(samples.api, local_cluster)
    before, mark = _versions(samples), local_cluster.audit_mark()
    time.sleep(SILENCE_SECONDS)
    assert operator.alive
    assert _in_words(_requests(local_cluster, mark)) == []
    assert _versions(samples) == before


def test_restart_writes_nothing(samples: Samples, operator: OperatorProcess, local_cluster: Cluster) -> None:
    services = samples.services()
    for service in services:
        service.wait_ready()
    _await_calm(samples.api, local_cluster)
    before, mark = _versions(samples), local_cluster.audit_mark()
    operator.restart()
    wait_for(lambda: scrape(operator.port).total("resources") >= len(services), message="a pass over every resource")
    _await_calm(samples.api, local_cluster)
    assert _versions(samples) == before
    requests = _requests(local_cluster, mark)
    assert _in_words(event for event in requests if event.is_write) == []
    asked_for_one = (event for event in requests if event.verb == "list" and event.namespace == samples.namespace)
    assert _in_words(asked_for_one) == [], "what the watch is about to tell"
