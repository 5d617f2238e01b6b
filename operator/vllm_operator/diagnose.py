"""Find out why pods do not serve: read the log of a container that crashed, ask for Events about a pod.

Sparingly: a log is read once per restart, of two pods of a resource at most, and of a healthy pod never. What cannot be
read is done without: a pod's own status tells how a container ended, and most often the last lines of its log.
"""

from __future__ import annotations

import logging
from typing import Protocol

from vllm_operator.engine.diagnosis import MAX_LINES, Diagnosis, diagnose
from vllm_operator.errors import Blocked, OperatorError, Transient
from vllm_operator.inquiry import Inquiry
from vllm_operator.naming import Key
from vllm_operator.pods import Patient, Pods
from vllm_operator.status.pods import Stage, Symptom, warnings_of

log = logging.getLogger(__name__)

READS = 2
"""Pods of a component that are examined in one pass."""

PATIENCE_SECONDS = 30.0
"""How long a pod may take to be created before its Events are asked for; then each time it is twice as old."""

_SLOW_SECONDS = 4.0
_PAUSE_SECONDS = 30.0
# A container that was ended from outside: by SIGKILL, SIGTERM, SIGINT, or so politely that it calls it a success.
_ENDED_FROM_OUTSIDE = ("0 ", "130 ", "137 ", "143 ")


class Api(Protocol):
    """What is needed of the API server; see `cluster.Cluster`."""

    async def pod_log(self, namespace: str, pod: str, container: str, *, previous: bool, lines: int) -> str:
        """The last lines of a container's log."""


def earlier(one: float | None, other: float | None) -> float | None:
    """The smaller of two delays, of which either may not be there."""
    return min((delay for delay in (one, other) if delay is not None), default=None)


class Diagnostician:
    """Examines pods; what it finds is noted in `pods`."""

    def __init__(self, cluster: Api, pods: Pods, inquiry: Inquiry) -> None:
        self._cluster = cluster
        self._pods = pods
        self._inquiry = inquiry
        self._pause_until = float("-inf")  # kubelets are out of reach: no logs until then

    async def examine(self, key: Key) -> float | None:
        """Look at the pods of a resource that are in trouble; seconds until the next look, if one is due."""
        waits: list[float] = []
        for component in sorted(self._pods.components(key)):
            for pod in self._pods.troubled(key, component)[:READS]:
                wait = await self._examine(key, pod)
                waits += [] if wait is None else [wait]
                if pod.trouble:
                    break  # the first by name that tells why speaks for all
        return min(waits, default=None)

    async def _examine(self, key: Key, pod: Patient) -> float | None:
        symptom = pod.symptom
        if symptom is None:
            return None
        if symptom.stage is Stage.CREATING:
            return await self._await_creation(key, pod, symptom)
        if symptom.stage is not Stage.CRASHED or pod.examined == symptom.failures:
            return None
        wait = self._pause_until - self._pods.clock()
        text = "" if wait > 0 else await self._log(key, pod, symptom)
        found = await self._diagnosis(key, pod, symptom, text)
        if pod.symptom == symptom:  # else the watch has brought another one meanwhile
            pod.note(found)
            pod.examined = pod.examined if wait > 0 else symptom.failures
        return wait if wait > 0 else None

    async def _diagnosis(self, key: Key, pod: Patient, symptom: Symptom, text: str) -> Diagnosis | None:
        """By the log; by the Events where the log does not tell why it was ended."""
        found = diagnose(symptom.evidence(text))
        if found and found.where == "end" and symptom.line.startswith(_ENDED_FROM_OUTSIDE):
            events = await self._events(key, pod, urgent=True) or ()
            found = diagnose(symptom.evidence(text, events)) or found
        return found

    async def _await_creation(self, key: Key, pod: Patient, symptom: Symptom) -> float | None:
        """Volumes that do not come are told in Events alone."""
        now = self._pods.clock()
        due = pod.since + PATIENCE_SECONDS if pod.looked is None else 2 * pod.looked - pod.since
        if now < due:
            return due - now
        events = await self._events(key, pod)
        if events is None:
            return PATIENCE_SECONDS
        if pod.symptom == symptom:
            pod.note(diagnose(symptom.evidence(events=events)))
        pod.looked = now
        return now - pod.since

    async def _log(self, key: Key, pod: Patient, symptom: Symptom) -> str:
        """The log of the run that ended; empty when it cannot be had."""
        began = self._pods.clock()
        try:
            return await self._cluster.pod_log(
                key.namespace, pod.name, symptom.container, previous=True, lines=MAX_LINES
            )
        except OperatorError as error:
            if isinstance(error, Transient) and self._pods.clock() - began >= _SLOW_SECONDS:
                self._pause_until = self._pods.clock() + _PAUSE_SECONDS
            _tell(key, error)
            return ""

    async def _events(self, key: Key, pod: Patient, *, urgent: bool = False) -> tuple[str, ...] | None:
        """Warnings about a pod, the latest first: none if they cannot be had, None if they are not asked for now."""
        try:
            events = await self._inquiry.events(key.namespace, pod.uid, urgent=urgent)
        except OperatorError as error:
            _tell(key, error)
            return ()
        return None if events is None else warnings_of(events)


def _tell(key: Key, error: OperatorError) -> None:
    """Only a right that is missing is worth an administrator's attention."""
    missing = isinstance(error, Blocked) and error.reason == "Forbidden"
    log.log(logging.WARNING if missing else logging.DEBUG, "not read: %s", error, extra={"resource": str(key)})
