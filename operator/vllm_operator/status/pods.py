"""What a pod's own status shows of why it does not serve. Never raises, whatever a status holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

from vllm_operator.engine.diagnosis import MAX_LINE, Evidence, Where, clean, log_lines
from vllm_operator.naming import controller_of
from vllm_operator.status.observation import PodTrouble


class Stage(IntEnum):
    """How a pod fares; of several that are in trouble the one with the lowest tells most."""

    CRASHED = 0  # a container ended, and has not been ready since
    STUCK = 1  # the kubelet cannot start a container
    UNPLACED = 2  # there is no node for it
    CREATING = 3  # on a node, where no container has started yet
    LOST = 4  # it ended as a whole, or its node is away; somebody makes another one


@dataclass(frozen=True, slots=True)
class Symptom:
    """Why a pod does not serve, as far as its status tells.

    `failures` counts how often the container has ended; `line` is what Kubernetes says, as the table of failures has
    it; `last_words` is the termination message, in which the kubelet keeps the last 2 KiB of a log.
    """

    stage: Stage
    line: str = ""
    container: str = ""
    failures: int = 0
    last_words: str = field(default="", repr=False)
    facts: Mapping[str, str] = field(default_factory=dict)

    def evidence(self, log: str = "", events: Sequence[str] = ()) -> Evidence:
        """What can be matched against the table of failures; without a log the last words stand in for it."""
        where: Where = {Stage.CRASHED: "end", Stage.STUCK: "state"}.get(self.stage, "pod")  # type: ignore[assignment]
        lines: dict[Where, Sequence[str]] = {"log": log_lines(log or self.last_words), "event": events}
        return Evidence({**lines, where: (self.line,) if self.line else ()}, self.facts)


# --- reading what may be anything


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, Sequence) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _time(value: object) -> datetime | None:
    """An RFC 3339 time with its zone."""
    try:
        found = datetime.fromisoformat(_text(value))
    except ValueError:
        return None
    return found if found.tzinfo else None


# --- what is said


def symptom_of(pod: Mapping[str, Any]) -> Symptom | None:
    """Why a pod does not serve; None when it does, ends as it should, or is on its way."""
    metadata, status = _object(pod.get("metadata")), _object(pod.get("status"))
    phase = status.get("phase")
    if "deletionTimestamp" in metadata or phase == "Succeeded":
        return None
    is_job = _object(controller_of(metadata) if _is_owned(metadata) else None).get("kind") == "Job"
    if phase == "Failed":
        return _lost(pod)
    scheduled = next((one for one in _objects(status.get("conditions")) if one.get("type") == "PodScheduled"), {})
    if scheduled.get("status") == "False":
        said = clean(f"{_text(scheduled.get('reason')) or 'Unschedulable'}: {_text(scheduled.get('message'))}")
        return Symptom(Stage.UNPLACED, _without_preemption(said), facts=_facts(pod, {}))
    if _is_cut_off(pod, status):
        return Symptom(Stage.LOST, "NodeNotReady", facts=_facts(pod, {}))
    found = (one for container in _containers(status) if (one := _container_symptom(pod, container, is_job=is_job)))
    return next(found, _creating(pod))


def _is_cut_off(pod: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether the node controller has declared a pod not ready, because its node does not answer.

    The kubelet says the same of the pod as of its containers, unless readiness gates have their say
    (pkg/controller/util/node, MarkPodsNotReady).
    """
    said = {one.get("type"): one.get("status") for one in _objects(status.get("conditions"))}
    gated = bool(_objects(_object(pod.get("spec")).get("readinessGates")))
    return (said.get("ContainersReady"), said.get("Ready")) == ("True", "False") and not gated


def _is_owned(metadata: Mapping[str, Any]) -> bool:
    owners = metadata.get("ownerReferences")
    return isinstance(owners, Sequence) and all(isinstance(one, Mapping) for one in owners)


def controller_uid(pod: Mapping[str, Any]) -> str:
    """Uid of what makes pods of this template: the ReplicaSet or the Job."""
    metadata = _object(pod.get("metadata"))
    return _text(_object(controller_of(metadata)).get("uid")) if _is_owned(metadata) else ""


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*_objects(status.get("initContainerStatuses")), *_objects(status.get("containerStatuses"))]


def _without_preemption(line: str) -> str:
    """The scheduler's message without what it says of claims, and of a cluster with other pods evicted."""
    return _AFTERTHOUGHT.split(line, maxsplit=1)[0][:MAX_LINE]


# As the scheduler of Kubernetes 1.36 writes it (pkg/scheduler/framework/plugins/dynamicresources, defaultpreemption).
_AFTERTHOUGHT = re.compile(r"(?: no new claims to deallocate,)? preemption: ")


def _container_symptom(pod: Mapping[str, Any], container: Mapping[str, Any], *, is_job: bool) -> Symptom | None:
    state = _object(container.get("state"))
    waiting, ended = state.get("waiting"), _object(_object(container.get("lastState")).get("terminated"))
    reason = _text(_object(waiting).get("reason"))
    if reason not in ("", *_ON_ITS_WAY, _BACK_OFF):
        line = _pull_problem(reason, clean(_text(_object(waiting).get("message"))))
        return Symptom(Stage.STUCK, line, _text(container.get("name")), facts=_facts(pod, container))
    if reason == _BACK_OFF and not ended:  # a node that has forgotten how it ended
        return Symptom(Stage.STUCK, reason, _text(container.get("name")), facts=_facts(pod, container))
    # What has just ended is soon restarted or put off, and only then its log is sure to be that of the last run.
    if container.get("ready") is True or not ended:
        return None
    if is_job and ended.get("reason") != "OOMKilled":  # its own report says why
        return None
    failures = _number(container.get("restartCount")) + bool(waiting)
    return _crash(pod, container, ended, failures)


_ON_ITS_WAY = ("ContainerCreating", "PodInitializing")
_BACK_OFF = "CrashLoopBackOff"


def _pull_problem(reason: str, message: str) -> str:
    """What the kubelet says, the same whether it has just failed to pull an image or waits to try again."""
    if reason in ("ErrImagePull", "ImagePullBackOff"):
        cause = message.partition("ErrImagePull: ")[2]
        message = cause if reason == "ImagePullBackOff" else message
        reason = "ImagePullBackOff"
    return f"{reason}: {message}"[:MAX_LINE] if message else reason


def _crash(pod: Mapping[str, Any], container: Mapping[str, Any], ended: Mapping[str, Any], failures: int) -> Symptom:
    message = _text(ended.get("message"))
    facts = _facts(pod, container)
    line = f"{_number(ended.get('exitCode'))} {_text(ended.get('reason')) or 'Error'}"
    if _startup_budget_used(pod, container, ended):
        line += " after the startup budget"
    if _text(ended.get("reason")) in ("StartError", "ContainerCannotRun"):
        line, message = f"{line}: {clean(message)}"[:MAX_LINE], ""
    return Symptom(Stage.CRASHED, line, _text(container.get("name")), failures, message, facts)


def _lost(pod: Mapping[str, Any]) -> Symptom | None:
    """A pod that failed as a whole. What its containers said of themselves is the Job's to read."""
    status = _object(pod.get("status"))
    if reason := _text(status.get("reason")):
        return Symptom(Stage.LOST, f"{reason}: {clean(_text(status.get('message')))}"[:MAX_LINE], facts=_facts(pod, {}))
    for container in _containers(status):
        ended = _object(_object(container.get("state")).get("terminated"))
        if ended.get("reason") == "OOMKilled":
            return _crash(pod, container, ended, 1)
    return None


def _creating(pod: Mapping[str, Any]) -> Symptom | None:
    """A pod that is on a node where nothing of it has started."""
    states = [_object(container.get("state")) for container in _containers(_object(pod.get("status")))]
    on_node = _text(_object(pod.get("spec")).get("nodeName"))
    waits = all(_text(_object(state.get("waiting")).get("reason")) in _ON_ITS_WAY for state in states)
    return Symptom(Stage.CREATING, facts=_facts(pod, {})) if on_node and waits else None


# --- facts about a pod that sentences name


def _spec_of(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Mapping[str, Any]:
    """The container's part of the pod's spec; the first one's for a pod as a whole."""
    spec = _object(pod.get("spec"))
    both = [*_objects(spec.get("containers")), *_objects(spec.get("initContainers"))]
    named = (one for one in both if one.get("name") == container.get("name"))
    return next(named, both[0] if both and not container else {})


def _facts(pod: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, str]:
    spec = _spec_of(pod, container)
    limits = _object(_object(spec.get("resources")).get("limits"))
    devices = [f"{count} {name}" for name, count in limits.items() if "/" in str(name)]
    selector = _object(_object(pod.get("spec")).get("nodeSelector"))
    facts = {
        "container": _text(container.get("name")),
        "image": _text(spec.get("image")) or _text(container.get("image")),
        "memory_limit": _text(limits.get("memory")),
        "gpus": ", ".join(devices),
        "selector": ", ".join(f"{key}={value}" for key, value in selector.items()),
        "node": _text(_object(pod.get("spec")).get("nodeName")),
        "startup_seconds": str(_startup_seconds(spec) or ""),
    }
    return {name: clean(fact)[:_MAX_FACT] for name, fact in facts.items() if fact}


_MAX_FACT = 300


def _startup_seconds(container: Mapping[str, Any]) -> int:
    """Seconds that the startup probe of a container's spec allows; 0 without one."""
    probe = _object(container.get("startupProbe"))
    return _number(probe.get("failureThreshold")) * (_number(probe.get("periodSeconds")) or 10)


_SLACK_SECONDS = 60  # the kubelet is late by so much at most


def _startup_budget_used(pod: Mapping[str, Any], container: Mapping[str, Any], ended: Mapping[str, Any]) -> bool:
    """Whether a container ran for as long as its startup probe allows, and no longer than it takes to end it then.

    The kubelet's Event would say it for sure, but after 180 failed probes it writes no more Events about the pod.
    """
    spec = _spec_of(pod, container)
    budget, probe = _startup_seconds(spec), _object(spec.get("startupProbe"))
    began, end = _time(ended.get("startedAt")), _time(ended.get("finishedAt"))
    if not budget or began is None or end is None:
        return False
    ran = (end - began).total_seconds()
    grace = _number(_object(pod.get("spec")).get("terminationGracePeriodSeconds"))
    delay, period = _number(probe.get("initialDelaySeconds")), _number(probe.get("periodSeconds")) or 10
    return budget + delay - period <= ran <= budget + delay + grace + _SLACK_SECONDS


def warnings_of(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Warnings about a pod and why it was killed, the latest first, as `Reason: message`."""
    told = [one for one in events if isinstance(one, Mapping) and _is_telling(one)]
    told.sort(key=_when, reverse=True)
    return tuple(_lines(told))


def refusal_of(events: Sequence[Mapping[str, Any]]) -> PodTrouble | None:
    """Why a controller can make no pods, by the latest Event about it: a quota or an admission rule."""
    refused = next((line for line in warnings_of(events) if line.startswith("FailedCreate: ")), "")
    if not refused:
        return None
    why = refused.partition(" is forbidden: ")[2] or refused.partition(": ")[2]
    return PodTrouble("QuotaExceeded" if "exceeded quota" in why else "ReplicaFailure", f"it is not admitted: {why}")


def _is_telling(event: Mapping[str, Any]) -> bool:
    return event.get("type") == "Warning" or event.get("reason") == "Killing"


def _when(event: Mapping[str, Any]) -> str:
    return _text(event.get("lastTimestamp")) or _text(event.get("eventTime"))


def _lines(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for event in events:
        yield f"{_text(event.get('reason'))}: {clean(_text(event.get('message')))}"[:MAX_LINE]
