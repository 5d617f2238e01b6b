"""The Jobs of a resource: what their pods reported, how they are written, and when another is made in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vllm_operator import kinds
from vllm_operator.api.spec import Spec
from vllm_operator.engine.source import identity
from vllm_operator.errors import Blocked, OperatorError, Transient
from vllm_operator.inquiry import Inquiry
from vllm_operator.listener import Notes
from vllm_operator.naming import JOB_LABEL, MODEL_ANNOTATION, Key
from vllm_operator.observed import Live, cache_claim, live_claim
from vllm_operator.plan.cache import MODEL_STEP, claim_name, model_digest, own_claim
from vllm_operator.plan.inspection import COMPONENT as INSPECT
from vllm_operator.plan.inspection import inspect_digest, read
from vllm_operator.plan.types import Child, Inspection
from vllm_operator.ports import Api, Object
from vllm_operator.report import parse_progress
from vllm_operator.status.observation import (
    Outcome,
    PodTrouble,
    finished_at,
    is_finished,
    lacks_pods,
    outcome_of,
    preload_of,
)
from vllm_operator.status.pods import refusal_of

# Before a model is looked at again whose report went with its pod: where pods go at once, as often as that.
_LOST_SECONDS = 30.0
PROGRESS_SECONDS = 15.0  # between two looks at how far a download is
_LINES = 5
PATIENCE_SECONDS = 5.0  # until a Job without pods is worth asking about
RETRY_SECONDS = 300.0  # between two attempts at a Job that has failed for good


@dataclass(frozen=True, slots=True)
class _Job:
    """A live Job, as far as it was seen."""

    name: str
    uid: str
    body: Mapping[str, Any]


class Jobs:
    """Looks after the Jobs. What pods reported comes from the watch, and is asked for where that was too slow."""

    def __init__(self, cluster: Api, notes: Notes, inquiry: Inquiry) -> None:
        self._cluster = cluster
        self._notes = notes
        self._inquiry = inquiry

    async def learn(self, key: Key, spec: Spec) -> None:
        """Ask for what finished Jobs reported, unless it is known."""
        for job in (*self._find(key, inspect_digest(spec)), *self._filling(key, spec)):
            if not is_finished(job.body) or self._notes.outcome(key, job.uid):
                continue
            for pod in await self._cluster.list(kinds.POD, key.namespace, f"{JOB_LABEL}={job.name}"):
                self._notes.see_outcome(key, pod["metadata"]["name"], outcome_of(pod))
            if self._notes.outcome(key, job.uid) is None:
                self._notes.see_outcome(key, job.name, Outcome(job.uid, "", succeeded=False, lost=True))

    def commit(self, key: Key, spec: Spec) -> str:
        """The commit of the files that a preload Job brought into the claim; empty when it did not say."""
        outcome = self._outcome(key, self._filling(key, spec))
        return outcome.commit if outcome else ""

    def _outcome(self, key: Key, jobs: Sequence[_Job]) -> Outcome | None:
        """How pods of these Jobs ended, as `Notes.outcome` has it."""
        return self._notes.outcome(key, *(job.uid for job in jobs))

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
        """What is known of the source: what the status keeps, or what a Job has reported since.

        While the status keeps that a Job left no report, servers run without one; another Job may leave one.
        """
        source = identity(spec.model)
        kept = (status.get("model") or {}).get("inspected") or {}
        known = read(source, kept.get("report", ""), recorded=True) if kept.get("source") == source else None
        if known and known.settled:
            return known
        jobs = self._find(key, inspect_digest(spec))
        outcome, trying = self._outcome(key, jobs), not all(is_finished(job.body) for job in jobs)
        complete = any(preload_of(job.body).complete for job in jobs)
        if outcome is None or (outcome.lost and complete) or (known and trying):
            return known
        return read(source, outcome.report, trying=trying, recorded=known is not None)

    def retry_in(self, key: Key, child: Child, live: Live) -> float | None:
        """Seconds until a Job that has ended is tried anew, 0 or less when it is time; None for one that did its work.

        One that looks at a model has done so if it left a report; where nobody could read that, it is time.
        """
        job, outcome, pause = live.body, self._notes.outcome(key, live.uid), RETRY_SECONDS
        if preload_of(job).complete:
            if child.component != INSPECT or outcome is None or outcome.tells:
                return None
            pause = _LOST_SECONDS if outcome.lost else pause
        ended = finished_at(job)
        return pause - _seconds_since(ended) if ended else None

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

    def is_outdated(self, key: Key, spec: Spec, job: Mapping[str, Any]) -> bool:
        """Whether a Job has ended that filled a claim of ours which is no more, be there another one or not."""
        name = own_claim(key.name)
        if spec.cache.claim_name or cache_claim(job) != name or not is_finished(job):
            return False
        claim = self._notes.observed.get((kinds.CLAIM, key.namespace, name))
        # The end is told by another clock than when the two were made.
        ended, made = finished_at(job), job["metadata"]["creationTimestamp"]
        return claim is None or (bool(ended) and max(ended, made) < live_claim(claim).created)

    def _filling(self, key: Key, spec: Spec) -> list[_Job]:
        """The live Jobs that bring what servers need into the claim that they will mount, or have done so."""
        claim = claim_name(spec, key.name)
        found = (job for job in self._find(key, model_digest(spec)) if cache_claim(job.body) == claim)
        return [job for job in found if not self.is_outdated(key, spec, job.body)]

    def _find(self, key: Key, what: str) -> list[_Job]:
        """The live Jobs of a digest: several, where something else of a Job has just changed."""
        seen = ((ref, self._notes.observed.get(ref)) for ref in self._notes.observed.of(key) if ref[0] is kinds.JOB)
        found = [_Job(ref[2], live.uid, live.body) for ref, live in seen if live]
        return [job for job in found if _annotations(job.body).get(MODEL_ANNOTATION) == what]


def _annotations(job: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = job["spec"]["template"]["metadata"]["annotations"]
    return found


def age_of(job: Live) -> float:
    """Seconds since a Job that has begun did so."""
    return _seconds_since(job.body["status"]["startTime"])


def _seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
