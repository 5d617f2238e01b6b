"""What is remembered of pods: which of them are in trouble, and what was found out about it.

A pod of an older template says nothing about the present spec; it counts no more once a newer template has pods.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_operator.engine.diagnosis import Diagnosis, diagnose
from vllm_operator.naming import COMPONENT, Key
from vllm_operator.status.observation import PodTrouble
from vllm_operator.status.pods import Stage, Symptom, controller_uid, symptom_of

_TWICE = 2


@dataclass(slots=True)
class Patient:
    """A pod: what its status shows, and the latest diagnosis of that."""

    name: str
    uid: str
    template: str  # uid of what makes pods of its template
    created: str  # RFC 3339, to the second
    symptom: Symptom | None = None
    since: float = 0.0  # when it entered its present stage, on the clock of Pods
    diagnosis: Diagnosis | None = None
    examined: int = 0  # the failure whose log was read, or could not be
    counted: int = 0  # the failure that `repeated` has counted
    looked: float | None = None  # when its Events were last asked for
    repeated: int = 0  # failures in a row for the same reason

    @property
    def trouble(self) -> PodTrouble | None:
        """Why it does not serve; what waiting does not heal is said to be so once it has happened twice."""
        found = self.diagnosis
        if self.symptom is None or found is None:
            return None
        stalled = found.stalled and (found.at_once or self.repeated >= _TWICE)
        return PodTrouble(found.reason, found.message, stalled)

    def note(self, found: Diagnosis | None) -> None:
        """Take a diagnosis of the present symptom; the words of an earlier one of the same thing are kept."""
        failures = self.symptom.failures if self.symptom else 0
        known = self.diagnosis
        if found is None or self.symptom is None:
            self.diagnosis = None
            return
        same = known is not None and known.reason == found.reason
        fresh = failures > self.counted
        self.repeated = self.repeated + fresh if same else 1 if known else failures
        self.counted = max(self.counted, failures)
        if known is None or not (same and _says_no_more(found, known, self.symptom.stage)):
            self.diagnosis = found


def _says_no_more(found: Diagnosis, known: Diagnosis, stage: Stage) -> bool:
    """Whether a diagnosis adds nothing to one of the same reason but numbers that change from start to start."""
    if stage in (Stage.UNPLACED, Stage.LOST):
        return False
    return not found.proof or found.sentences == known.sentences or (stage is Stage.CRASHED and bool(known.proof))


@dataclass(slots=True)
class Pods:
    """The pods of all resources, by resource, component and name."""

    clock: Callable[[], float] = time.monotonic
    _known: dict[Key, dict[tuple[str, str], Patient]] = field(default_factory=dict)

    def see(self, key: Key, body: Mapping[str, Any], *, gone: bool = False) -> bool:
        """Take note of a pod; true when it changes what is to be said of its resource."""
        metadata = body["metadata"]
        component = (metadata.get("labels") or {}).get(COMPONENT, "")
        before = self._outline(key, component)
        pods = self._known.setdefault(key, {})
        if gone or "deletionTimestamp" in metadata:
            pods.pop((component, metadata["name"]), None)
        else:
            self._update(pods, (component, metadata["name"]), body)
        if not pods:
            del self._known[key]
        return before != self._outline(key, component)

    def _update(self, pods: dict[tuple[str, str], Patient], ref: tuple[str, str], body: Mapping[str, Any]) -> None:
        uid, symptom = str(body["metadata"].get("uid", "")), symptom_of(body)
        pod = pods.get(ref)
        if pod is None or pod.uid != uid:
            created = str(body["metadata"].get("creationTimestamp", ""))
            pod = pods[ref] = Patient(ref[1], uid, controller_uid(body), created, since=self.clock())
        if symptom == pod.symptom:
            return
        if symptom is None or pod.symptom is None or symptom.stage is not pod.symptom.stage:
            pod.since, pod.looked = self.clock(), None
        pod.symptom = symptom
        if symptom is None:
            pod.diagnosis, pod.repeated, pod.examined, pod.counted = None, 0, 0, 0
        elif symptom.stage is not Stage.CRASHED:  # a crash is judged by its log
            pod.note(diagnose(symptom.evidence()))

    def _outline(self, key: Key, component: str) -> list[tuple[str, Symptom | None]]:
        return [(pod.name, pod.symptom) for pod in self.troubled(key, component)]

    def troubled(self, key: Key, component: str) -> list[Patient]:
        """Pods of the newest template that do not serve, the most telling first, in an order that is stable."""
        pods = [pod for (one, _), pod in self._known.get(key, {}).items() if one == component]
        newest = _newest(pods)
        found = [(pod.symptom.stage, pod.name, pod) for pod in pods if pod.symptom and pod.template in newest]
        return [pod for *_, pod in sorted(found, key=lambda one: one[:2])]

    def components(self, key: Key) -> set[str]:
        """Of which components there are pods."""
        return {component for component, _ in self._known.get(key, {})}

    def trouble(self, key: Key, component: str) -> PodTrouble | None:
        """Why pods of a component do not serve: the first that is known of the most telling one."""
        return next((trouble for pod in self.troubled(key, component) if (trouble := pod.trouble)), None)

    def all(self) -> set[tuple[str, str]]:
        """Namespace and name of every pod."""
        return {(key.namespace, name) for key, pods in self._known.items() for _, name in pods}

    def forget(self, key: Key) -> None:
        """The resource is gone."""
        self._known.pop(key, None)

    def drop(self, gone: Iterable[tuple[str, str]]) -> None:
        """Pods (namespace, name) whose deletion the watch missed."""
        missed = set(gone)
        for key, pods in tuple(self._known.items()):
            for ref in [ref for ref in pods if (key.namespace, ref[1]) in missed]:
                del pods[ref]
            if not pods:
                del self._known[key]


def _newest(pods: Iterable[Patient]) -> set[str]:
    """The template whose latest pod is younger than all others' (several, when they are as old to the second)."""
    latest: dict[str, str] = {}
    for pod in pods:
        latest[pod.template] = max(latest.get(pod.template, ""), pod.created)
    youngest = max(latest.values(), default="")
    return {template for template, created in latest.items() if created == youngest}
