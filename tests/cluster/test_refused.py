"""What the operator may not do, or cannot: it is said soon, tried seldom, and done soon after it can be.

Every obstacle stands in a namespace of its own, and all of them at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.support.api import NAMESPACE, QUOTA, ApiError, path_of
from cluster.support.arena import Arena, Launch, make_namespace
from cluster.support.planned import deviations
from cluster.support.service import CACHED, Service
from cluster.support.webhook import PATH, broken_webhook, on_deployments
from localcluster.wait import wait_for
from objects import deployment
from operator_process import USER
from vllm_operator import kinds
from vllm_operator.app import workers
from vllm_operator.workqueue import Backoff

# At full length as docs/reliability.md says; the other is for a machine that does much else.
SAID_WITHIN_SECONDS, PATIENCE_SECONDS = 10.0, 120.0
ATTEMPTS_IN_TEN_MINUTES = 12
HEALED_WITHIN_SECONDS = 300.0
# For how long nothing is done about it: the longer, the longer is the pause before the next attempt.
SHORT_SECONDS, FULL_SECONDS = 12.0, 600.0
_ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/vllm-operator"
_BLOCKED: Backoff = vars(workers)["_BLOCKED"]


@contextmanager
def _quota(arena: Arena, namespace: str, hard: Mapping[str, str]) -> Iterator[None]:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": hard}}
    arena.api.create(quota, namespace)
    wait_for(lambda: "hard" in (arena.api.get(QUOTA, namespace, "none") or {})["status"], message="the quota counts")
    yield
    arena.api.delete(QUOTA, namespace, "none")


@contextmanager
def _no_claims(arena: Arena, namespace: str) -> Iterator[None]:
    with _quota(arena, namespace, {"persistentvolumeclaims": "0"}):
        yield


@contextmanager
def _no_gpus(arena: Arena, namespace: str) -> Iterator[None]:
    with _quota(arena, namespace, {"requests.nvidia.com/gpu": "0"}):
        yield


@contextmanager
def _webhook(arena: Arena, namespace: str) -> Iterator[None]:
    """Somebody's webhook that answers 500, and without which no Deployment may be written."""

    def refuses() -> bool:
        try:
            arena.api.call("POST", f"{path_of(kinds.DEPLOYMENT, namespace)}?dryRun=All", deployment(namespace))
        except ApiError as error:
            return "failed calling webhook" in str(error)
        return False

    with broken_webhook(arena.cluster.folder) as client:
        arena.api.call("POST", PATH, on_deployments(namespace, client))
        wait_for(refuses, message="the webhook is asked")
        yield
        arena.api.call("DELETE", f"{PATH}/{namespace}")


@contextmanager
def _no_rights(arena: Arena, namespace: str) -> Iterator[None]:
    """NetworkPolicies are taken out of what the operator may do, anywhere."""
    role = arena.api.call("GET", _ROLE)
    less = {**role, "rules": [rule for rule in role["rules"] if "networkpolicies" not in rule["resources"]]}
    del less["metadata"]["managedFields"]

    def may() -> bool:
        question = ("patch", "networkpolicies", f"--as={USER}", f"--namespace={namespace}")
        return arena.cluster.kubectl("auth", "can-i", *question, check=False).returncode == 0

    arena.api.call("PUT", _ROLE, less)
    wait_for(lambda: not may(), message="the right is gone")
    yield
    arena.api.call("PUT", _ROLE, {**less, "metadata": {"name": "vllm-operator"}, "rules": role["rules"]})


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way of a resource, and how the resource says so."""

    stands: Callable[[Arena, str], AbstractContextManager[None]]
    reason: str
    spec: Mapping[str, Any]


OBSTACLES: Mapping[str, Obstacle] = {
    "quota of claims": Obstacle(_no_claims, "QuotaExceeded", CACHED),
    "quota of GPUs": Obstacle(_no_gpus, "QuotaExceeded", {"gpu": {"count": 1, "product": "NVIDIA-GeForce-RTX-4090"}}),
    "webhook": Obstacle(_webhook, "WebhookFailed", {}),
    "rights": Obstacle(_no_rights, "Forbidden", {"networkPolicy": {}}),
}


@dataclass(frozen=True, slots=True)
class Told:
    """Seconds until it was said, attempts until it could be done, and seconds from then until it was."""

    said: float
    attempts: int
    blocked: float  # seconds
    healed: float

    @property
    def in_ten_minutes(self) -> float:
        """Attempts in the first ten minutes, had the obstacle stood that long."""
        return self.attempts + max(0, _lawful(600.0) - _lawful(self.blocked))


def _lawful(seconds: float) -> int:
    """The most attempts that the back-off allows in so many seconds: the first, and one after each delay."""
    attempts, at = 1, 0.0
    while (at := at + _BLOCKED.delay(attempts, fraction=1.0)) <= seconds:
        attempts += 1
    return attempts


def _refusals(arena: Arena, since: int, namespace: str) -> int:
    """How many requests were refused: a pass makes one that is. That something is not there is no refusal."""
    events = arena.cluster.audit_events(USER, since)
    ended = [one for one in events if one.namespace == namespace and one.stage == "ResponseComplete"]
    return sum(one.code >= 400 and one.code != 404 for one in ended)


def _tell(arena: Arena, namespace: str, obstacle: Obstacle, seconds: float) -> Told:
    with obstacle.stands(arena, namespace):
        since, began = arena.cluster.audit_mark(), time.monotonic()
        service = Service.create(arena.api, namespace, "web", obstacle.spec)
        service.wait("Ready", "False", obstacle.reason)
        said = time.monotonic() - began
        assert not service.says("Stalled", "True"), "it heals by itself"
        time.sleep(max(0.0, seconds - said))
        attempts, blocked = _refusals(arena, since, namespace), time.monotonic() - began
    over = time.monotonic()
    service.wait_ready(timeout=2 * HEALED_WITHIN_SECONDS)
    healed = time.monotonic() - over
    assert deviations(service) == []
    return Told(said, attempts, blocked, healed)


def test_refusals_are_said_soon_tried_seldom_and_healed(arena: Arena, launch: Launch, *, full_length: bool) -> None:
    launch()
    seconds = FULL_SECONDS if full_length else SHORT_SECONDS
    namespaces = [make_namespace(arena.api) for _ in OBSTACLES]
    with ThreadPoolExecutor(len(OBSTACLES)) as threads:
        stories = {
            name: threads.submit(_tell, arena, namespace, obstacle, seconds)
            for (name, obstacle), namespace in zip(OBSTACLES.items(), namespaces, strict=True)
        }
        told = {name: story.result() for name, story in stories.items()}
    for name, one in told.items():
        print(  # noqa: T201 - the figures of docs/reliability.md
            f"{name}: said after {one.said:.1f} s, {one.attempts} attempts in {one.blocked:.0f} s, "
            f"{one.in_ten_minutes:g} in ten minutes, healed after {one.healed:.1f} s"
        )
    for namespace in namespaces:
        arena.api.delete(NAMESPACE, "", namespace)
    within = SAID_WITHIN_SECONDS if full_length else PATIENCE_SECONDS
    assert {name: one.said for name, one in told.items() if one.said > within} == {}
    assert {name: one for name, one in told.items() if one.in_ten_minutes > ATTEMPTS_IN_TEN_MINUTES} == {}
    assert {name: one.healed for name, one in told.items() if one.healed > HEALED_WITHIN_SECONDS} == {}
