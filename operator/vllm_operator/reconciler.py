"""One pass over one resource: get, plan, apply, prune, status.

Level-triggered: a pass starts from the live resource and remembers nothing that it needs; see `listener.Notes` for what
it remembers to save calls. What is observed is the answer of an apply, or what the watch brought since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from vllm_operator import kinds
from vllm_operator.api.parse import Resource, parse
from vllm_operator.api.spec import Spec
from vllm_operator.diagnose import Diagnostician, earlier
from vllm_operator.errors import Blocked, Gone, InvalidSpec, Transient
from vllm_operator.gauge import Gauge
from vllm_operator.jobs import PROGRESS_SECONDS, Jobs, retry_in
from vllm_operator.kinds import Kind
from vllm_operator.listener import Listener, Notes, Queue
from vllm_operator.naming import HANDOVER_MANAGER, MANAGED_SELECTOR, Key, child_name
from vllm_operator.observed import Live, Ref, claimed_by_others, live_claim, live_workload, marked_key, may_go
from vllm_operator.plan import make_plan
from vllm_operator.plan.cache import COMPONENT as PRELOAD
from vllm_operator.plan.cache import preloads
from vllm_operator.plan.inspection import COMPONENT as INSPECT
from vllm_operator.plan.types import Child, Defaults, Facts, Plan
from vllm_operator.plan.workload import is_at_rest
from vllm_operator.ports import Api, Events, Object
from vllm_operator.render import render_child
from vllm_operator.status import make_status, notices, refused_status
from vllm_operator.status.observation import (
    ChildError,
    Observation,
    preload_of,
    rollout_of,
    scaling_of,
)


@dataclass(frozen=True, slots=True)
class Result:
    """How a pass ended well: what it wrote, and when to look again although nothing happens."""

    writes: int = 0
    ready: bool = False
    requeue_after: float | None = None


@dataclass(slots=True)
class _Pass:
    """What one pass did so far."""

    key: Key
    plan: Plan
    writes: int = 0
    withheld: bool = False
    barred: bool = False  # what pods stand on belongs to somebody else, or cannot be made
    errors: list[ChildError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failure: Transient | None = None
    requeue_after: float | None = None
    progress: str = ""  # of the download


class Reconciler:
    """Brings resources to what their specs say. Safe to call for different keys at once, never twice for the same."""

    def __init__(self, cluster: Api, defaults: Defaults, events: Events, namespace: str | None = None) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._defaults = defaults
        self._events = events
        self._notes = Notes(defaults.tables)
        self._jobs = Jobs(cluster, self._notes)
        self._diagnostician = Diagnostician(cluster, self._notes.pods)
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

    async def start(self) -> None:
        """Learn the GPU nodes before the first pass: a choice among half of them would be wrong."""
        for node in await self._cluster.list(kinds.NODE):
            self._notes.inventory.see(node)

    async def resync(self, queue: Queue) -> None:
        """Heal what the watch missed: forget children that are gone, and look at every resource again."""
        self._notes.observed.forget_deletions()
        for kind in kinds.CHILDREN:
            if kind.optional and not await self._cluster.serves(kind):
                continue
            listed = await self._cluster.list_metadata(kind, MANAGED_SELECTOR, self._namespace)
            there = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in listed}
            for key, ref in self._notes.observed.missing_from(kind, there):
                self._notes.observed.forget(key, ref)
        await self._diagnostician.resync(self._namespace)
        for key in tuple(self._notes.resources):
            queue.add(key)

    async def reconcile(self, key: Key) -> Result:
        """One pass. Raises Gone when the resource is not there, Blocked and Transient when another pass is needed."""
        body = await self._cluster.get(kinds.RESOURCE, key.namespace, key.name)
        if body is None or body["metadata"].get("deletionTimestamp"):
            self._forget(key)
            raise Gone(str(key))
        try:
            resource = parse(body)
        except InvalidSpec as error:
            wrote = await self._write_status(key, body, refused_status(body, error, _now()))
            return Result(writes=int(wrote))
        plan = await self.plan_for(key, resource, body)
        self._note_version(key, body)
        done = _Pass(key, plan)
        if plan.refusal is None:
            await self._apply_all(done)
            if plan.waiting is None:  # else the plan holds a part only
                await self._prune(done)
        return await self._finish(done, body)

    def _forget(self, key: Key) -> None:
        self._notes.forget(key)
        if self._gauge:
            self._gauge.forget(key)

    async def plan_for(self, key: Key, resource: Resource, body: Object) -> Plan:
        """The plan of a resource, given what the cluster holds now; `body` is the live resource, for its status."""
        await self._know_fixed_children(key)
        await self._jobs.learn(key, resource.spec)
        return make_plan(resource, self._defaults, self._facts(key, resource.spec, body))

    # --- what is known before a plan is made

    async def _know(self, key: Key, kind: Kind, name: str) -> Live | None:
        """The live object of that name, whoever owns it; asked for once, then followed by the watch."""
        ref: Ref = (kind, key.namespace, name)
        if (known := self._notes.observed.get(ref)) is not None:
            return known
        body = await self._cluster.get(kind, key.namespace, name)
        return self._notes.observed.see(marked_key(body["metadata"]) or key, ref, body) if body else None

    async def _know_fixed_children(self, key: Key) -> None:
        """Claim and Deployment: what exists of them limits what can be planned.

        Asked for once: later the watch tells, but for objects that are not ours, and those are looked for again before
        anything is written over them.
        """
        if key in self._notes.resources:
            return
        claim, workload = child_name(key.name, "-cache"), child_name(key.name)
        await asyncio.gather(self._know(key, kinds.CLAIM, claim), self._know(key, kinds.DEPLOYMENT, workload))

    def _facts(self, key: Key, spec: Spec, body: Object) -> Facts:
        observed, namespace = self._notes.observed, key.namespace
        status = body.get("status") or {}
        claim = observed.get((kinds.CLAIM, namespace, child_name(key.name, "-cache")))
        workload = observed.get((kinds.DEPLOYMENT, namespace, child_name(key.name)))
        return Facts(
            offers=self._notes.inventory.offers(),
            claim=live_claim(claim) if claim else None,
            workload=live_workload(workload) if workload else None,
            previous_product=(status.get("sizing") or {}).get("gpu", ""),
            inspects=True,
            inspection=self._jobs.inspection(key, spec, status),
            commit=self._jobs.commit(key, spec),
        )

    # --- writing

    async def _apply_all(self, done: _Pass) -> None:
        """Apply every child; one that fails does not keep the others waiting, but for pods without their ground."""
        for child in done.plan.children:
            if done.barred and child.kind in kinds.WITH_PODS:
                continue
            try:
                await self._apply_child(done, child)
            except Blocked as error:
                self._note_blocked(done, child, error)
            except Transient as error:
                done.failure = done.failure or error

    async def _apply_child(self, done: _Pass, child: Child) -> None:
        key, observed = done.key, self._notes.observed
        ref: Ref = (child.kind, key.namespace, child.name)
        withheld = child.kind is kinds.DEPLOYMENT and self._is_withheld(done, observed.get(ref))
        live = observed.get(ref) if withheld else await self._know(key, child.kind, child.name)
        elsewhere = observed.key_of(ref) not in (None, key)
        if live and (foreign := claimed_by_others(live, child.kind, done.plan.resource.uid, elsewhere=elsewhere)):
            if not live.ours:
                observed.forget(key, ref)  # the watch will not tell when it goes
            raise Blocked("NameConflict", foreign)
        if withheld:
            done.withheld = True
            return
        if child.kind is kinds.DEPLOYMENT:
            await self._hand_over(done, child)
        manifest = render_child(done.plan, child)
        if await self._tries_anew(done, child, live):
            return
        if not observed.is_current(ref, manifest):
            write = self._jobs.apply if child.kind is kinds.JOB else self._apply
            observed.applied(key, ref, manifest, await write(manifest, live))
            done.writes += 1

    async def _tries_anew(self, done: _Pass, child: Child, live: Live | None) -> bool:
        """Let a failed Job go after a while, so that the next pass makes another; true when it went."""
        left = retry_in(live, datetime.now(UTC)) if live and child.kind is kinds.JOB else None
        if live is None or left is None:
            return False
        if left > 0:
            done.requeue_after = left
            return False
        await self._remove(done, (child.kind, done.key.namespace, child.name), live)
        return True

    async def _apply(self, manifest: Object, live: Live | None) -> Object:
        """Apply a child. Others may add to its lists, until that is what makes the whole invalid."""
        try:
            return await self._cluster.apply(manifest)
        except Blocked as error:
            if error.reason != "Rejected" or live is None or "spec" not in manifest:
                raise
            return await self._cluster.apply_alone(manifest)

    def _note_blocked(self, done: _Pass, child: Child, error: Blocked) -> None:
        """Optional extras that a cluster cannot hold are said and do not keep the service from being ready.

        Neither does a claim that serves but may not change, such as one whose class does not let it grow.
        """
        what = f"{child.kind} {child.name}"
        exists = (child.kind, done.key.namespace, child.name) in self._notes.observed.of(done.key)
        if child.kind is kinds.CLAIM and exists and error.reason == "Rejected":
            done.plan = replace(done.plan, storage_problem=f"the claim stays as it is: {error}")
        elif child.kind.optional:
            done.notes.append(f"{error.reason}: {what}: {error}")
        else:
            done.errors.append(ChildError(what, error.reason, str(error), final=error.reason == "Rejected"))
            done.barred |= child.kind in kinds.UNDER_PODS and (error.reason == "NameConflict" or not exists)

    def _is_withheld(self, done: _Pass, live: Live | None) -> bool:
        """Servers that need other files than the ones that run wait until the cache holds them.

        A Deployment without replicas waits for nothing, and one that is woken runs nothing yet.
        """
        spec = done.plan.resource.spec
        if not preloads(spec) or is_at_rest(spec) or preload_of(self._body(done, kinds.JOB, PRELOAD)).complete:
            return False
        running = live_workload(live) if live else None
        return running is None or running.replicas == 0 or running.model_digest != done.plan.model_digest

    async def _hand_over(self, done: _Pass, child: Child) -> None:
        """Park the replicas under a second manager, so that leaving them out of ours does not reset them to 1."""
        count = done.plan.handover_replicas
        if count is None:
            return
        parked = {
            "apiVersion": child.kind.api_version,
            "kind": child.kind.kind,
            "metadata": {"name": child.name, "namespace": done.key.namespace},
            "spec": {"replicas": count},
        }
        await self._cluster.apply(parked, HANDOVER_MANAGER)
        done.writes += 1

    async def _prune(self, done: _Pass) -> None:
        """Delete children that the plan holds no more, if they are ours and nobody else's."""
        key, observed = done.key, self._notes.observed
        planned = {(child.kind, key.namespace, child.name) for child in done.plan.children}
        for ref in observed.of(key):
            live = observed.get(ref)
            if ref in planned or live is None or not may_go(live, ref[0], done.plan.resource.uid):
                continue
            try:
                await self._remove(done, ref, live)
            except Blocked as error:
                done.errors.append(ChildError(f"{ref[0]} {ref[2]}", error.reason, str(error)))

    async def _remove(self, done: _Pass, ref: Ref, live: Live) -> None:
        await self._cluster.delete(ref[0], ref[1], ref[2], live.uid)
        self._notes.observed.forget(done.key, ref)
        done.writes += 1

    # --- what is said

    def _body(self, done: _Pass, kind: Kind, component: str = "") -> Mapping[str, Any] | None:
        """The live child of a kind, or of a component, of which the plan holds at most one."""
        found = (child for child in done.plan.children if child.kind is kind)
        name = next((child.name for child in found if component in ("", child.component)), None)
        live = self._notes.observed.get((kind, done.key.namespace, name)) if name else None
        return live.body if live else None

    def _observation(self, done: _Pass) -> Observation:
        claim = self._body(done, kinds.CLAIM) or {}
        workload = self._notes.observed.get((kinds.DEPLOYMENT, done.key.namespace, child_name(done.key.name)))
        return Observation(
            plan=done.plan,
            rollout=rollout_of(workload.body if workload else None),
            preload=preload_of(
                self._body(done, kinds.JOB, PRELOAD),
                self._notes.outcome(done.key, done.plan.model_digest),
                done.progress,
            ),
            scaling=scaling_of(self._body(done, kinds.AUTOSCALER)),
            claim_phase=(claim.get("status") or {}).get("phase", ""),
            trouble=self._notes.trouble(done.key, "server"),
            preload_trouble=self._notes.trouble(done.key, PRELOAD),
            inspect_trouble=self._notes.trouble(done.key, INSPECT),
            withheld=done.withheld,
            errors=tuple(done.errors),
            notes=tuple(done.notes),
            metrics=self._notes.take_page(done.key),
        )

    async def _finish(self, done: _Pass, body: Object) -> Result:
        previous = body.get("status") or {}
        if done.withheld and (progress := await self._jobs.progress(done.key)) is not None:
            done.progress, done.requeue_after = progress, PROGRESS_SECONDS
        done.requeue_after = earlier(done.requeue_after, await self._diagnostician.examine(done.key))
        seen = self._observation(done)
        status = make_status(seen, previous, _now())
        self._measure(done, seen, status)
        if await self._write_status(done.key, body, status):
            done.writes += 1
            # Only when the status moved, so that a restart repeats nothing.
            for notice in notices(seen, previous, status):
                await self._events.record(done.plan.resource, notice.kind, notice.reason, notice.message)
        if done.failure:
            raise done.failure
        if done.errors:
            raise Blocked(done.errors[0].reason, f"{done.errors[0].what}: {done.errors[0].message}")
        return Result(done.writes, ready=status["phase"] == "Ready", requeue_after=done.requeue_after)

    def _measure(self, done: _Pass, seen: Observation, status: Object) -> None:
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
        self._note_version(key, await self._cluster.apply_status(key.namespace, key.name, status))
        return True

    def _note_version(self, key: Key, body: Object) -> None:
        """Events up to this resource version bring nothing new."""
        version = int(body["metadata"]["resourceVersion"])
        self._notes.resources[key] = max(version, self._notes.resources.get(key, 0))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
