"""The Jobs of a resource: what their pods reported, how they are written, and when a failed one is tried anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vllm_operator import kinds
from vllm_operator.api.spec import Spec
from vllm_operator.engine.source import identity
from vllm_operator.errors import Blocked, OperatorError, Transient
from vllm_operator.inquiry import Inquiry
from vllm_operator.listener import Notes
from vllm_operator.naming import JOB_LABEL, MODEL_ANNOTATION, Key
from vllm_operator.observed import Live
from vllm_operator.plan.cache import MODEL_STEP, model_digest
from vllm_operator.plan.inspection import inspect_digest, read
from vllm_operator.plan.types import Inspection
from vllm_operator.ports import Api, Object
from vllm_operator.report import parse_progress
from vllm_operator.status.observation import Outcome, PodTrouble, is_finished, lacks_pods, outcome_of, preload_of
from vllm_operator.status.pods import refusal_of

PROGRESS_SECONDS = 15.0  # between two looks at how far a download is
_LINES = 5
PATIENCE_SECONDS = 5.0  # until a Job without pods is worth asking about
RETRY_SECONDS = 300  # between two attempts at a Job that has failed for good


@dataclass(frozen=True, slots=True)
class _Job:
    """A live Job, as far as it was seen."""

    name: str
    body: Mapping[str, Any]


class Jobs:
    """Looks after the Jobs. What pods reported comes from the watch, and is asked for where that was too slow."""

    def __init__(self, cluster: Api, notes: Notes, inquiry: Inquiry) -> None:
        self._cluster = cluster
        self._notes = notes
        self._inquiry = inquiry

    async def learn(self, key: Key, spec: Spec) -> None:
        """Ask for what finished Jobs reported, unless it is known."""
        for what in (inspect_digest(spec), model_digest(spec)):
            job = self._find(key, what)
            if job is None or not is_finished(job.body) or self._notes.outcome(key, what):
                continue
            for pod in await self._cluster.list(kinds.POD, key.namespace, f"{JOB_LABEL}={job.name}"):
                self._notes.see_outcome(key, pod["metadata"]["name"], outcome_of(pod))
            if self._notes.outcome(key, what) is None:  # its pods are gone
                self._notes.see_outcome(key, "", Outcome(what, "", succeeded=False))

    def commit(self, key: Key, spec: Spec) -> str:
        """The commit of the files that the preload Job brought; empty when it did not say."""
        outcome = self._notes.outcome(key, model_digest(spec))
        return outcome.commit if outcome else ""

    async def progress(self, key: Key) -> str | None:
        """How far the download of the model is, by the last lines of its log; None while nothing downloads it."""
        pod = self._notes.loading(key)
        if not pod:
            return None
        try:
            log = await self._cluster.pod_log(key.namespace, pod, MODEL_STEP, previous=False, lines=_LINES)
        except OperatorError:  # a figure that is missing is no reason to fail
            return ""
        found = parse_progress(log)
        return f"{found.done:g} of {found.total:g} GiB are downloaded ({found.percent} %)" if found else ""

    def without_pods(self, key: Key) -> Live | None:
        """A Job that has begun and that no pod could be made for."""
        found = (self._notes.observed.get(ref) for ref in self._notes.observed.of(key) if ref[0] is kinds.JOB)
        return next((live for live in found if live and lacks_pods(live.body)), None)

    async def refusal(self, key: Key, job: Live) -> PodTrouble | None:
        """Why no pod could be made for a Job, which only Events about it tell; None when they cannot be had."""
        try:
            events = await self._inquiry.events(key.namespace, job.uid)
        except OperatorError:
            return None
        if events is not None:
            self._notes.see_refusal(key, job.uid, refusal_of(events))
        return self._notes.refusal(key, job.uid)

    def inspection(self, key: Key, spec: Spec, status: Mapping[str, Any]) -> Inspection | None:
        """What is known of the source: what the status keeps, or what a Job has reported since."""
        source, what = identity(spec.model), inspect_digest(spec)
        kept = (status.get("model") or {}).get("inspected") or {}
        if kept.get("source") == source:
            return read(source, kept.get("report", ""), recorded=True)
        outcome, job = self._notes.outcome(key, what), self._find(key, what)
        if outcome is None or job is None:
            return None
        return read(source, outcome.report, trying=not is_finished(job.body))

    async def apply(self, manifest: Object, live: Live | None) -> Object:
        """Apply a Job. One whose template changed gives way: it may be stuck with what has, such as a missing image."""
        try:
            return await self._cluster.apply(manifest, new=live is None)
        except Blocked as error:
            if error.reason != "Rejected" or live is None:
                raise
            metadata = manifest["metadata"]
            await self._cluster.delete(kinds.JOB, metadata["namespace"], metadata["name"], live.uid)
            raise Transient("the Job gives way to one with another template") from error

    def _find(self, key: Key, what: str) -> _Job | None:
        """The live Job of a digest."""
        for ref in self._notes.observed.of(key):
            live = self._notes.observed.get(ref) if ref[0] is kinds.JOB else None
            body = live.body if live else None
            if body and body["spec"]["template"]["metadata"]["annotations"].get(MODEL_ANNOTATION) == what:
                return _Job(ref[2], body)
        return None


def age_of(job: Live, now: datetime) -> float:
    """Seconds since a Job that has begun did so."""
    return (now - datetime.fromisoformat(job.body["status"]["startTime"])).total_seconds()


def retry_in(live: Live, now: datetime) -> float | None:
    """Seconds until a failed Job is tried anew, 0 or less when it is time; None for one that has not failed."""
    failed_at = preload_of(live.body).failed_at
    return RETRY_SECONDS - (now - datetime.fromisoformat(failed_at)).total_seconds() if failed_at else None
