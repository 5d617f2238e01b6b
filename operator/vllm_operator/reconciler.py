"""One pass over one resource: get, plan, apply, prune, status.

Level-triggered: a pass starts from the whole resource and remembers nothing that it needs; see `listener.Notes` for
what it remembers to save calls. What is observed is the answer of a write, or what the watch brought since. A pass that
writes children has read the resource itself before: no watch may have told that it went.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from vllm_operator import kinds
from vllm_operator.api.parse import Resource, parse
from vllm_operator.api.spec import Spec
from vllm_operator.children import Children, Pass
from vllm_operator.diagnose import Diagnostician, earlier
from vllm_operator.errors import Blocked, Gone, InvalidSpec, OperatorError, Outdated, Transient
from vllm_operator.gauge import Gauge
from vllm_operator.inquiry import Inquiry
from vllm_operator.jobs import PATIENCE_SECONDS, PROGRESS_SECONDS, Jobs, age_of
from vllm_operator.listener import Listener, Notes, Queue
from vllm_operator.naming import MANAGED_SELECTOR, Key, child_name, version_of
from vllm_operator.observed import live_claim, live_workload
from vllm_operator.plan import make_plan
from vllm_operator.plan.cache import COMPONENT as PRELOAD
from vllm_operator.plan.cache import own_claim, users_claim
from vllm_operator.plan.inspection import COMPONENT as INSPECT
from vllm_operator.plan.types import Defaults, Facts, Plan
from vllm_operator.ports import Api, Events, Meter, Object, Unmetered
from vllm_operator.scope import Scope
from vllm_operator.status import held_up_status, make_status, notices, refused_status
from vllm_operator.status.observation import (
    ChildError,
    Observation,
    PodTrouble,
    rollout_of,
    scaling_of,
)
from vllm_operator.status.reading import becomes_ready, is_edited, ready_of

log = logging.getLogger(__name__)

# A pass that finds what its plan did not know of is followed by one that knows; both may change once more meanwhile.
_LOOKS = 3
_RESYNC_STEP_SECONDS = 0.02  # between two resources: five times what a look at one takes
_FAILURES = 3  # in a row, before a request that may succeed the next time is spoken of
_FAULT_LENGTH = 1024  # characters of an exception's text


@dataclass(frozen=True, slots=True)
class Result:
    """How a pass ended well: what it wrote, how the resource stands, when to look again although nothing happens."""

    writes: int = 0
    ready: bool = False
    requeue_after: float | None = None
    phase: str = ""
    reason: str = ""  # of the Ready condition


class Reconciler:
    """Brings resources to what their specs say. Safe to call for different keys at once, never twice for the same."""

    def __init__(
        self,
        cluster: Api,
        defaults: Defaults,
        events: Events,
        meter: Meter | None = None,
    ) -> None:
        self._cluster = cluster
        self._meter = meter or Unmetered()
        self._scope = Scope()
        self._defaults = defaults
        self._events = events
        self._notes = Notes(defaults.tables)
        inquiry = Inquiry(cluster)
        self._jobs = Jobs(cluster, self._notes, inquiry)
        self._children = Children(cluster, self._notes, self._jobs, self._meter, renews=defaults.renew_pods)
        self._diagnostician = Diagnostician(cluster, self._notes.pods, inquiry)
        self._gauge: Gauge | None = None

    def listener(self, queue: Queue) -> Listener:
        """What feeds the notes from the watch, and has servers measured meanwhile."""

        def found(key: Key, page: str) -> None:
            self._notes.see_page(key, page)
            queue.add(key)

        self._gauge = Gauge(found)
        return Listener(self._notes, queue)

    async def close(self) -> None:
        """End what runs beside the passes."""
        if self._gauge:
            await self._gauge.close()

    async def start(self, scope: Scope | None = None) -> None:
        """Learn what is looked at (by default everything), and the GPU nodes: a choice among half of them is wrong."""
        self._scope = scope or Scope()
        if self._scope.nodes:
            async for node in self._cluster.each(kinds.NODE):
                self._notes.inventory.see(node)

    async def resync(self, queue: Queue) -> None:
        """Heal what the watch missed: forget children, pods and nodes that are gone, and look at every resource again.

        At once where a child is gone, one after the other elsewhere: an edit shall not wait until all were looked at.
        """
        self._notes.observed.forget_deletions()
        self._notes.modes.clear()
        for kind in kinds.CHILDREN:
            if kind.optional and not await self._cluster.serves(kind):
                continue
            if (there := await self._there(kind)) is not None:
                for key, ref in self._notes.observed.missing_from(kind, there):
                    self._notes.observed.forget(key, ref)
                    queue.add(key)
        pods = self._notes.all_pods()  # first: of one that comes while they are listed nothing is known to be wrong
        if (there := await self._there(kinds.POD)) is not None:
            self._notes.drop_pods(pods - there)
        nodes = self._notes.inventory.names()  # none where they may not be looked at
        if nodes and (there := await self._there(kinds.NODE)) is not None:
            self._notes.inventory.drop(nodes - {name for _, name in there})
        for turn, key in enumerate(self._notes.resources):
            self._notes.resources.doubt(key)
            queue.add_after(key, turn * _RESYNC_STEP_SECONDS)

    async def _there(self, kind: kinds.Kind) -> set[tuple[str, str]] | None:
        """Namespace and name of every object of a kind that bears our label, or of every node; None without a right."""
        selector, places = (MANAGED_SELECTOR, self._scope.places) if kind.namespaced else ("", (None,))
        try:
            found = [await self._cluster.names(kind, selector, place) for place in places]
        except Blocked as error:  # the other kinds are healed all the same
            log.warning("%s: what the watch missed stays unknown: %s", kind, error)
            return None
        return {one for names in found for one in names}

    async def reconcile(self, key: Key) -> Result:
        """One pass. Raises Gone when the resource is not there, Blocked and Transient when another pass is needed."""
        try:
            seen = self._notes.resources.body(key)
            if seen and not seen["metadata"].get("deletionTimestamp"):
                with suppress(Outdated):
                    return await self._pass(key, seen, confirmed=False)
            for _ in range(_LOOKS):
                with suppress(Outdated):
                    return await self._read_and_pass(key)
        except BaseException:
            self._notes.resources.doubt(key)
            raise
        raise Transient("what is planned from changes all the time")

    async def _read_and_pass(self, key: Key) -> Result:
        body = await self._cluster.get(kinds.RESOURCE, key.namespace, key.name)
        if body is None or body["metadata"].get("deletionTimestamp"):
            self._forget(key)
            raise Gone(str(key))
        self._notes.resources.see(key, body)
        return await self._pass(key, body, confirmed=True)

    async def _pass(self, key: Key, body: Object, *, confirmed: bool) -> Result:
        """One pass over a resource as it was seen, or as it is if that is `confirmed`; see `Outdated`."""
        try:
            resource = parse(body)
        except InvalidSpec as error:
            status = refused_status(body, error, _now())
            self._meter.stands(key, status)
            wrote = await self._write_status(key, body, status)
            return Result(int(wrote), phase=status["phase"], reason=ready_of(status)["reason"])
        try:
            return await self._carry_out(key, resource, body, confirmed=confirmed)
        except OperatorError:
            raise
        except Exception as error:
            said = f"a fault of the operator, which is tried again: {type(error).__name__}: {error}"
            await self._hold_up(resource, body, "InternalError", said[:_FAULT_LENGTH])
            raise

    async def _carry_out(self, key: Key, resource: Resource, body: Object, *, confirmed: bool) -> Result:
        # An operator of earlier may have made children that no watch has told this one of yet.
        looks_first = key not in self._notes.planned and "observedGeneration" in (body.get("status") or {})
        try:
            plan = await self.plan_for(key, resource, body, looks_first=looks_first)
        except Blocked as error:
            await self._hold_up(resource, body, error.reason, str(error))
            raise
        self._notes.planned.add(key)
        done = self._children.begin(key, plan, confirmed=confirmed, looks_first=looks_first)
        if plan.refusal is None:
            await self._children.apply_all(done)
            if plan.waiting is None:  # else the plan holds a part only
                await self._children.prune(done)
        return await self._finish(done, body)

    def _forget(self, key: Key) -> None:
        self._notes.forget(key)
        self._meter.forget(key)
        if self._gauge:
            self._gauge.forget(key)

    async def plan_for(self, key: Key, resource: Resource, body: Object, *, looks_first: bool) -> Plan:
        """The plan of a resource, given what the cluster holds; `body` is the live resource, for its status.

        `looks_first`: what limits the plan is asked for where no watch has told of it.
        """
        if looks_first:
            await self._children.know_fixed(key)
        await self._children.know_mounted(key, resource.spec)
        await self._jobs.learn(key, resource.spec)
        return make_plan(resource, self._defaults, self._facts(key, resource.spec, body))

    def _facts(self, key: Key, spec: Spec, body: Object) -> Facts:
        observed, namespace = self._notes.observed, key.namespace
        status = body.get("status") or {}
        claim = observed.get((kinds.CLAIM, namespace, own_claim(key.name)))
        workload = observed.get((kinds.DEPLOYMENT, namespace, child_name(key.name)))
        product = (status.get("sizing") or {}).get("gpu", "")
        offers = self._notes.inventory.offers(running=product if workload else "")
        return Facts(
            offers=offers if self._scope.nodes else None,
            claim=live_claim(claim) if claim else None,
            modes=self._notes.modes.get((namespace, users_claim(spec)), ()),
            workload=live_workload(workload) if workload else None,
            previous_product=product,
            inspects=True,
            inspection=self._jobs.inspection(key, spec, status),
            commit=self._jobs.commit(key, spec),
        )

    # --- what is said

    async def _hold_up(self, resource: Resource, body: Object, reason: str, message: str) -> None:
        """Say what keeps a pass from being made, as far as that can be said."""
        key = Key(resource.namespace, resource.name)
        status = held_up_status(body, reason, message, _now())
        self._meter.stands(key, status)
        with suppress(OperatorError):
            if await self._write_status(key, body, status):
                await self._events.record(resource, "Warning", reason, message)

    async def _refusal(self, done: Pass) -> PodTrouble | None:
        """Why a Job that servers wait for gets no pod; looked at again, because nothing tells when that changes."""
        job = self._jobs.without_pods(done.key)
        if job is None:
            return None
        young = age_of(job) < PATIENCE_SECONDS  # its controller is about to make a pod
        done.requeue_after = earlier(done.requeue_after, PATIENCE_SECONDS if young else PROGRESS_SECONDS)
        return None if young else await self._jobs.refusal(done.key, job)

    def _observation(self, done: Pass, refusal: PodTrouble | None) -> Observation:
        claim = self._children.body(done, kinds.CLAIM) or {}
        workload = self._notes.observed.get((kinds.DEPLOYMENT, done.key.namespace, child_name(done.key.name)))
        return Observation(
            plan=done.plan,
            rollout=rollout_of(workload.body if workload else None),
            preload=self._children.preload(done),
            scaling=scaling_of(self._children.body(done, kinds.AUTOSCALER)),
            claim_phase=(claim.get("status") or {}).get("phase", ""),
            trouble=self._notes.trouble(done.key, "server"),
            preload_trouble=self._notes.trouble(done.key, PRELOAD) or refusal,
            inspect_trouble=self._notes.trouble(done.key, INSPECT) or refusal,
            withheld=done.withheld,
            kept=done.kept,
            errors=tuple(done.errors),
            notes=tuple(done.notes),
            metrics=self._notes.page(done.key),
        )

    async def _finish(self, done: Pass, body: Object) -> Result:
        previous = body.get("status") or {}
        if done.withheld and (progress := await self._jobs.progress(done.key)) is not None:
            done.progress, done.requeue_after = progress, PROGRESS_SECONDS
        done.requeue_after = earlier(done.requeue_after, await self._diagnostician.examine(done.key))
        failures = self._notes.count_failure(done.key, failed=done.failure is not None)
        if done.failure and failures >= _FAILURES:
            what, failure = done.failure
            done.errors.append(ChildError(what, "RequestFailed", str(failure)))
        elif done.failure and is_edited(body):
            # What runs is of before the edit: a status would speak of that, and in the name of the edit.
            raise _counted(done, done.failure[1])
        seen = self._observation(done, await self._refusal(done))
        status = make_status(seen, previous, _now())
        if done.failure and becomes_ready(status, previous):  # what is missing may be a Service, which no pod tells of
            raise _counted(done, done.failure[1])
        self._meter.stands(done.key, status)
        self._measure(done, seen, status)
        wrote = await self._write_status(done.key, body, status)
        self._notes.drop_page(done.key, seen.metrics)
        if wrote:
            done.writes += 1
            # Only when the status moved, so that a restart repeats nothing.
            for notice in notices(seen, previous, status):
                await self._events.record(done.plan.resource, notice.kind, notice.reason, notice.message)
        if error := _error(done):
            raise _counted(done, error)
        phase = status["phase"]
        return Result(done.writes, phase == "Ready", done.requeue_after, phase, ready_of(status)["reason"])

    def _measure(self, done: Pass, seen: Observation, status: Object) -> None:
        """Have the metrics of a server read where the status does not say yet what vLLM made of its memory."""
        address, sizing = self._notes.address(done.key), status.get("sizing") or {}
        own = done.plan.resource.spec.engine.command
        if self._gauge and address and seen.rollout.complete and sizing and "measured" not in sizing and not own:
            self._gauge.ask(done.key, address)

    async def _write_status(self, key: Key, body: Object, status: Object) -> bool:
        """Write a status that differs from the live one; true when it did."""
        if status == (body.get("status") or {}):
            return False
        # A Conflict goes up: the next pass finds out whether the resource changed meanwhile or went.
        live = await self._cluster.apply_status(key.namespace, key.name, status)
        self._meter.applied(kinds.RESOURCE, changed=version_of(live["metadata"]) != version_of(body["metadata"]))
        # Else an edit came in between, and its event must not be taken for one of ours.
        if live["metadata"]["generation"] == body["metadata"]["generation"]:
            self._notes.resources.see(key, live)
        return True


def _counted(done: Pass, error: OperatorError) -> OperatorError:
    error.writes = done.writes
    return error


def _error(done: Pass) -> OperatorError | None:
    """What the pass met and could not do; what passes by itself comes first."""
    if done.failure:
        return done.failure[1]
    if done.errors:
        return Blocked(done.errors[0].reason, f"{done.errors[0].what}: {done.errors[0].message}")
    return None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
