"""The children of a resource in one pass: what is known of them, and how they are written and removed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_operator import kinds
from vllm_operator.api.spec import Spec
from vllm_operator.diagnose import earlier
from vllm_operator.errors import Blocked, Conflict, Outdated, Transient
from vllm_operator.jobs import Jobs
from vllm_operator.keeping import corrected, is_outdated, keep_template, may_keep, recorded
from vllm_operator.kinds import Kind
from vllm_operator.listener import Notes
from vllm_operator.naming import HANDOVER_MANAGER, Key, child_name, version_of
from vllm_operator.observed import Live, Ref, cache_claim, claimed_by_others, live_workload, marked_key, may_go, reduce
from vllm_operator.ownership import manifest_digest, owned_digest
from vllm_operator.plan.cache import COMPONENT as PRELOAD
from vllm_operator.plan.cache import own_claim, preloads, reads_the_same, users_claim
from vllm_operator.plan.types import Child, Plan
from vllm_operator.plan.workload import is_at_rest
from vllm_operator.ports import Api, Meter, Object
from vllm_operator.render import render_child
from vllm_operator.status.observation import ChildError, Preload, preload_of, rollout_of

# What exists of these limits what can be planned.
_LIMITING = frozenset({kinds.CLAIM, kinds.DEPLOYMENT})


@dataclass(slots=True)
class Pass:
    """What one pass did so far."""

    key: Key
    plan: Plan
    confirmed: bool = False  # the resource that was planned from was read by this pass
    looks_first: bool = False  # before it makes a child: to ask to make one that exists would be a write
    outdated: bool = False  # the preload Job has filled a claim that is no more
    preloaded: bool = False  # the cache held what servers need when it was planned
    writes: int = 0
    withheld: bool = False
    kept: bool = False  # servers run the pod template of an earlier release
    barred: bool = False  # what pods stand on belongs to somebody else, or cannot be made
    errors: list[ChildError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failure: tuple[str, Transient] | None = None  # the first request that failed: for which child, and how
    requeue_after: float | None = None
    progress: str = ""  # of the download


class Children:
    """Reads and writes children. What a pass did and met is noted in the pass."""

    def __init__(self, cluster: Api, notes: Notes, jobs: Jobs, meter: Meter, *, renews: bool = False) -> None:
        self._cluster = cluster
        self._notes = notes
        self._jobs = jobs
        self._meter = meter
        self._renews = renews  # servers follow each release of the operator

    def begin(self, key: Key, plan: Plan, *, confirmed: bool, looks_first: bool) -> Pass:
        """A pass over what is known at this moment.

        A preload that ends during it is for the next one, whose plan knows the commit that was brought.
        """
        done = Pass(key, plan, confirmed, looks_first)
        job = self._live(done, kinds.JOB, PRELOAD)
        done.outdated = job is not None and self._jobs.is_outdated(key, plan.resource.spec, job.body)
        done.preloaded = plan.held or self.preload(done).complete
        return done

    async def know(self, key: Key, ref: Ref) -> Live | None:
        """The live object of that name, whoever owns it; asked for once, then followed by the watch."""
        if (known := self._notes.observed.get(ref)) is not None:
            return known
        body = await self._cluster.get(*ref)
        return self._notes.observed.see(marked_key(body["metadata"]) or key, ref, body) if body else None

    async def know_fixed(self, key: Key) -> None:
        """Claim and Deployment: what exists of them limits what can be planned.

        Asked for once: later the watch tells, but for objects that are not ours, and those are met when ours are made.
        A resource without a status has neither, as a rule.
        """
        claim: Ref = (kinds.CLAIM, key.namespace, own_claim(key.name))
        servers: Ref = (kinds.DEPLOYMENT, key.namespace, child_name(key.name))
        await asyncio.gather(self.know(key, claim), self.know(key, servers))

    async def know_mounted(self, key: Key, spec: Spec) -> None:
        """Access modes of a user's own claim, which limit rollouts and never change; asked for until it is there."""
        name = users_claim(spec)
        if not name or (key.namespace, name) in self._notes.modes:
            return
        if body := await self._cluster.get(kinds.CLAIM, key.namespace, name):
            self._notes.modes[key.namespace, name] = tuple(body["spec"]["accessModes"])

    def preload(self, done: Pass) -> Preload:
        """Where the planned preload Job stands. Pods of other Jobs tell nothing of it, whatever they brought."""
        live = self._live(done, kinds.JOB, PRELOAD)
        if live is None or done.outdated:
            return Preload()
        return preload_of(live.body, self._notes.outcome(done.key, live.uid), done.progress)

    def body(self, done: Pass, kind: Kind) -> Mapping[str, Any] | None:
        """The live child of a kind of which the plan holds at most one."""
        live = self._live(done, kind)
        return live.body if live else None

    def _live(self, done: Pass, kind: Kind, component: str = "") -> Live | None:
        """The live child of a kind, or of a component, of which the plan holds at most one."""
        found = (child for child in done.plan.children if child.kind is kind)
        name = next((child.name for child in found if component in ("", child.component)), None)
        return self._notes.observed.get((kind, done.key.namespace, name)) if name else None

    async def apply_all(self, done: Pass) -> None:
        """Apply every child; one that fails does not keep the others waiting, but for pods without their ground."""
        for child in done.plan.children:
            if done.barred and child.kind in kinds.WITH_PODS:
                continue
            try:
                await self._apply_child(done, child)
            except Blocked as error:
                self._note_blocked(done, child, error)
            except Transient as error:
                done.failure = done.failure or (f"{child.kind} {child.name}", error)

    async def _apply_child(self, done: Pass, child: Child) -> None:
        """Make one child what the plan says. One that nothing is known of is made only if there is none."""
        ref: Ref = (child.kind, done.key.namespace, child.name)
        live = await self._our_own(done, ref)
        if child.kind is kinds.DEPLOYMENT and self._is_withheld(done, live):
            done.withheld = True
            return
        try:
            await self._bring_about(done, child, ref, live)
        except Conflict:
            if live or (found := await self._our_own(done, ref, asks=True)) is None:
                raise
            if child.kind in _LIMITING:  # it is ours, and no watch has told of it yet
                await self.know_fixed(done.key)
                raise Outdated(f"{child.kind} {child.name}") from None
            await self._bring_about(done, child, ref, found)

    async def _our_own(self, done: Pass, ref: Ref, *, asks: bool = False) -> Live | None:
        """The live child, as far as is known; raises Blocked when the object of its name is somebody else's."""
        key, observed, taken = done.key, self._notes.observed, self._notes.taken
        # The limiting ones were asked for before the plan was made.
        asks = asks or ref in taken.get(key, ()) or (done.looks_first and ref[0] not in _LIMITING)
        live = await self.know(key, ref) if asks else observed.get(ref)
        elsewhere = observed.key_of(ref) not in (None, key)
        if live and (foreign := claimed_by_others(live, ref[0], done.plan.resource.uid, elsewhere=elsewhere)):
            if not (live.ours and elsewhere):
                observed.forget(key, ref)  # whatever marks it bears, the watch may not tell when it goes
            taken.setdefault(key, set()).add(ref)
            raise Blocked("NameConflict", foreign)
        taken.get(key, set()).discard(ref)
        return live

    async def _bring_about(self, done: Pass, child: Child, ref: Ref, live: Live | None) -> None:
        observed = self._notes.observed
        if child.kind is kinds.DEPLOYMENT:
            await self._hand_over(done, child)
        if child.kind.optional and live is None and not await self._cluster.serves(child.kind):
            raise Blocked("CRDNotInstalled", f"the API server serves no {child.kind}: install its CRD")
        manifest = recorded(render_child(done.plan, child))
        if await self._tries_anew(done, child, live):
            return
        if not observed.is_current(ref, manifest):
            await self._write(done, ref, manifest, live)
        done.kept |= child.kind is kinds.DEPLOYMENT and observed.is_kept(ref)

    async def _write(self, done: Pass, ref: Ref, manifest: Object, live: Live | None) -> None:
        """Apply a manifest, unless all that it would change is a pod template that stays."""
        body, wanted = None, manifest
        if live and not self._renews and may_keep(manifest, live.body):
            body = await self._cluster.get(*ref)
            wanted = keep_template(manifest, body) if body else manifest
        if body is None or manifest_digest(wanted) != owned_digest(body):
            body = await self._send(done, ref[0], wanted, live)
            if better := corrected(wanted, body):
                body = await self._send(done, ref[0], better, live or reduce(body))
        self._notes.observed.applied(done.key, ref, manifest, body, kept=is_outdated(wanted, manifest))

    async def _confirm(self, done: Pass) -> None:
        """Before the first write: a resource that the watch lost sight of must not get its children back.

        Raises Outdated when it is not what was planned from.
        """
        if done.confirmed:
            return
        planned = done.plan.resource
        live = await self._cluster.get_metadata(kinds.RESOURCE, planned.namespace, planned.name)
        metadata = live["metadata"] if live else {}
        there = (metadata.get("uid"), metadata.get("generation"))
        if "deletionTimestamp" in metadata or there != (planned.uid, planned.generation):
            raise Outdated(str(done.key))
        done.confirmed = True

    async def _send(self, done: Pass, kind: Kind, manifest: Object, live: Live | None) -> Object:
        await self._confirm(done)
        write = self._jobs.apply if kind is kinds.JOB else self._apply
        body = await write(manifest, live)
        self._meter.applied(kind, changed=live is None or live.version != version_of(body["metadata"]))
        done.writes += 1
        return body

    async def _tries_anew(self, done: Pass, child: Child, live: Live | None) -> bool:
        """Let a Job that did not do its work go after a while, so that the next pass makes another; true when it went.

        One whose claim is no more goes at once.
        """
        if live is None or child.kind is not kinds.JOB:
            return False
        left = 0.0 if done.outdated and child.component == PRELOAD else self._jobs.retry_in(done.key, child, live)
        if left is None:
            return False
        if left > 0:
            done.requeue_after = earlier(done.requeue_after, left)
            return False
        await self._remove(done, (child.kind, done.key.namespace, child.name), live)
        return True

    async def _apply(self, manifest: Object, live: Live | None) -> Object:
        """Apply a child. Others may add to its lists, until that is what makes the whole invalid."""
        try:
            return await self._cluster.apply(manifest, new=live is None)
        except Blocked as error:
            if error.reason != "Rejected" or live is None or "spec" not in manifest:
                raise
            return await self._cluster.apply_alone(manifest)

    def _note_blocked(self, done: Pass, child: Child, error: Blocked) -> None:
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

    def _is_withheld(self, done: Pass, live: Live | None) -> bool:
        """Servers that need other files than the ones that run, or another claim, wait until that holds them.

        A Deployment without replicas waits for nothing, and one that is woken runs nothing yet.
        """
        spec = done.plan.resource.spec
        if not preloads(spec) or is_at_rest(spec) or done.preloaded:
            return False
        running = live_workload(live) if live else None
        return running is None or running.replicas == 0 or not reads_the_same(spec, done.key.name, running)

    async def _hand_over(self, done: Pass, child: Child) -> None:
        """Park the replicas under a second manager, so that leaving them out of ours does not reset them to 1."""
        count = done.plan.handover_replicas
        if count is None:
            return
        await self._confirm(done)
        parked = {
            "apiVersion": child.kind.api_version,
            "kind": child.kind.kind,
            "metadata": {"name": child.name, "namespace": done.key.namespace},
            "spec": {"replicas": count},
        }
        await self._cluster.apply(parked, HANDOVER_MANAGER)
        done.writes += 1

    async def prune(self, done: Pass) -> None:
        """Delete children that the plan holds no more, if they are ours and nobody else's."""
        key, observed = done.key, self._notes.observed
        planned = {(child.kind, key.namespace, child.name) for child in done.plan.children}
        for ref in observed.of(key):
            live = observed.get(ref)
            if ref in planned or live is None or not may_go(live, ref[0], done.plan.resource.uid):
                continue
            if ref[0] is kinds.CLAIM and self._may_be_mounted(key, ref[2]):
                continue
            try:
                await self._remove(done, ref, live)
            except Blocked as error:
                done.errors.append(ChildError(f"{ref[0]} {ref[2]}", error.reason, str(error)))

    def _may_be_mounted(self, key: Key, claim: str) -> bool:
        """Whether servers may still need a claim: until all of them have moved to another one."""
        servers = self._notes.observed.get((kinds.DEPLOYMENT, key.namespace, child_name(key.name)))
        return not servers or cache_claim(servers.body) == claim or not rollout_of(servers.body).complete

    async def _remove(self, done: Pass, ref: Ref, live: Live) -> None:
        await self._confirm(done)
        await self._cluster.delete(ref[0], ref[1], ref[2], live.uid)
        self._notes.observed.forget(done.key, ref)
        done.writes += 1
