"""What watch events mean: which notes they leave and which resources deserve another look."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

from vllm_operator.inventory import Inventory
from vllm_operator.kinds import Kind
from vllm_operator.naming import COMPONENT, JOB_LABEL, Key, resource_of, version_of
from vllm_operator.observed import Observed, Ref, marked_key
from vllm_operator.plan.cache import COMPONENT as PRELOAD
from vllm_operator.plan.cache import MODEL_STEP
from vllm_operator.pods import Pods
from vllm_operator.resources import Resources
from vllm_operator.sizing.tables import EMPTY, Tables
from vllm_operator.status.observation import Outcome, PodTrouble, outcome_of, ready_address, runs

DELETED = "DELETED"
LISTED = None
SERVER = "server"
# What a listing brings is looked at when all kinds were listed, so many seconds after the last of them began to be
# watched: until then it would have to be asked for what the listings are about to tell.
LISTED_SECONDS = 0.5
# The longest wait for all listings: where one fails again and again, the others are no reason to wait for ever.
LISTING_SECONDS = 180.0


class Queue(Protocol):
    """Where keys wait for a pass."""

    def add(self, key: Key) -> None:
        """Look at a resource as soon as possible."""

    def add_soon(self, key: Key) -> None:
        """Look at a resource soon, for something that rarely comes alone."""

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at a resource later, unless that happens before."""


class Notes:
    """Everything remembered between passes; nothing of it is needed, all of it saves calls."""

    def __init__(self, tables: Tables = EMPTY) -> None:
        self.observed = Observed()
        self.inventory = Inventory(tables)
        self.pods = Pods()
        self.resources = Resources()
        self.planned: set[Key] = set()  # resources that were planned before, with all that exists of them
        self.taken: dict[Key, set[Ref]] = {}  # names of children that somebody else's objects bear
        self.modes: dict[tuple[str, str], tuple[str, ...]] = {}  # access modes of users' claims (namespace, name)
        self._failures: dict[Key, int] = {}  # passes in a row in which a request for a child failed
        self._pages: dict[Key, str] = {}  # of metrics, until a pass takes them
        self._addresses: dict[Key, tuple[str, str]] = {}  # of a server that is ready: pod and IP
        self._loading: dict[Key, str] = {}  # the pod that downloads the model
        self._outcomes: dict[Key, dict[str, Outcome]] = {}  # by pod; by Job where all are gone
        self._refusals: dict[Key, tuple[str, PodTrouble | None]] = {}  # of a Job that gets no pod: its uid, and why

    def count_failure(self, key: Key, *, failed: bool) -> int:
        """Take note of whether requests for children failed in a pass; in how many in a row they did."""
        if not failed:
            self._failures.pop(key, None)
            return 0
        self._failures[key] = self._failures.get(key, 0) + 1
        return self._failures[key]

    def trouble(self, key: Key, component: str) -> PodTrouble | None:
        """Why pods of a component do not serve."""
        return self.pods.trouble(key, component)

    def address(self, key: Key) -> str:
        """IP address of a server that was seen ready; empty when there is none."""
        return self._addresses.get(key, ("", ""))[1]

    def see_address(self, key: Key, pod: str, address: str) -> bool:
        """Take note that a server is ready at an address, or with none that it is not; true for the first."""
        if address:
            first = key not in self._addresses
            self._addresses[key] = (pod, address)
            return first
        if self._addresses.get(key, ("", ""))[0] == pod:
            del self._addresses[key]
        return False

    def see_page(self, key: Key, page: str) -> None:
        """Keep a page of metrics until a pass has carried it into the status."""
        self._pages[key] = page

    def page(self, key: Key) -> str:
        """The page of metrics that came since the last pass, if one did."""
        return self._pages.get(key, "")

    def drop_page(self, key: Key, page: str) -> None:
        """The status says what that page said; one that came meanwhile is left for the next pass."""
        if self._pages.get(key) == page:
            del self._pages[key]

    def loading(self, key: Key) -> str:
        """The pod that downloads the model at this moment; empty when there is none."""
        return self._loading.get(key, "")

    def see_loading(self, key: Key, pod: str, *, loads: bool) -> None:
        """Take note of whether a pod downloads the model."""
        if loads:
            self._loading[key] = pod
        elif self._loading.get(key) == pod:
            del self._loading[key]

    def outcome(self, key: Key, *jobs: str) -> Outcome | None:
        """How pods of Jobs, given by their uids, ended: a success if there was one, else the latest attempt."""
        found = [one for one in self._outcomes.get(key, {}).values() if one.job in jobs]
        return max(found, key=lambda one: (one.succeeded, one.created), default=None)

    def see_outcome(self, key: Key, pod: str, outcome: Outcome | None) -> bool:
        """Take note of how a Job's pod ended; None: it is gone, or runs. True when that is news."""
        known = self._outcomes.get(key, {})
        if known.get(pod) == outcome:
            return False
        if outcome:
            self._outcomes.setdefault(key, {})[pod] = outcome
        else:
            known.pop(pod, None)
        return True

    def all_pods(self) -> set[tuple[str, str]]:
        """Namespace and name of every pod that something is known of."""
        return self.pods.all() | {(key.namespace, pod) for key, pod in self._told()}

    def drop_pods(self, gone: Collection[tuple[str, str]]) -> None:
        """Forget pods (namespace, name) whose deletion the watch missed."""
        self.pods.drop(gone)
        for key, pod in self._told():
            if (key.namespace, pod) in gone:
                self.see_address(key, pod, "")
                self.see_loading(key, pod, loads=False)
                self.see_outcome(key, pod, None)

    def _told(self) -> set[tuple[Key, str]]:
        """The pods that addresses, downloads and outcomes are of, with their resources."""
        outcomes = {(key, pod) for key, pods in self._outcomes.items() for pod, one in pods.items() if not one.lost}
        return outcomes | {(key, pod) for key, (pod, _) in self._addresses.items()} | set(self._loading.items())

    def refusal(self, key: Key, job: str) -> PodTrouble | None:
        """Why no pod could be made for the Job of that uid, when that was asked last."""
        uid, found = self._refusals.get(key, ("", None))
        return found if uid == job else None

    def see_refusal(self, key: Key, job: str, found: PodTrouble | None) -> None:
        """Take note of why no pod could be made for a Job."""
        self._refusals[key] = (job, found)

    def forget(self, key: Key) -> None:
        """The resource is gone; what is left of its children is the garbage collector's."""
        self.resources.forget(key)
        self.planned.discard(key)
        self.taken.pop(key, None)
        self._failures.pop(key, None)
        self._outcomes.pop(key, None)
        self._addresses.pop(key, None)
        self._loading.pop(key, None)
        self._pages.pop(key, None)
        self._refusals.pop(key, None)
        self.pods.forget(key)


class Listener:
    """Turns events into notes and keys; never waits for anything."""

    def __init__(self, notes: Notes, queue: Queue) -> None:
        self._notes = notes
        self._queue = queue
        self._listing: set[Key] | None = set()  # seen while kinds are listed for the first time; None afterwards

    def all_listed(self) -> None:
        """All kinds were listed once: what was told of a resource is all that there is of it."""
        seen, self._listing = self._listing or (), None
        for key in seen:
            self._queue.add_after(key, LISTED_SECONDS)

    def resource_seen(self, event: str | None, body: Mapping[str, Any]) -> None:
        """A VLLMDeployment was listed, changed or deleted; what a pass of ours wrote itself is no news."""
        metadata = body["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        if event == DELETED:
            self._notes.resources.doubt(key)
        elif self._notes.resources.is_news(key, version_of(metadata)):
            self._notes.resources.see(key, body)
        else:
            return
        self._look(key, event, self._queue.add)

    def child_seen(self, kind: Kind, event: str | None, body: Mapping[str, Any]) -> None:
        """An object with our label was listed, changed or deleted."""
        metadata, observed = body["metadata"], self._notes.observed
        ref = (kind, metadata["namespace"], metadata["name"])
        key = observed.key_of(ref) or marked_key(metadata)
        if key is None:
            return
        version = version_of(metadata)
        if event == DELETED:
            observed.deleted(key, ref, version)
            self._queue.add(key)
            return
        known = observed.get(ref)
        if known is None or version > known.version:
            seen = observed.see(key, ref, body)
            if known is None or replace(known, version=version) != seen:
                self._look(key, event, self._queue.add_soon)

    def pod_seen(self, event: str | None, body: Mapping[str, Any]) -> None:
        """A pod was listed, changed or deleted; only its troubles are remembered."""
        metadata = body["metadata"]
        name = resource_of(metadata)
        if name is None:
            return
        key = Key(metadata["namespace"], name)
        component = metadata["labels"].get(COMPONENT, "")
        news = self._notes.pods.see(key, body, gone=event == DELETED)
        if component == SERVER:
            gone = event == DELETED or "deletionTimestamp" in metadata
            # Its metrics can be read now, although nothing else may happen any more.
            news |= self._notes.see_address(key, metadata["name"], "" if gone else ready_address(body))
        if JOB_LABEL in metadata["labels"]:
            ended = None if event == DELETED else outcome_of(body)
            loads = event != DELETED and component == PRELOAD and runs(body, MODEL_STEP)
            self._notes.see_loading(key, metadata["name"], loads=loads)
            news |= self._notes.see_outcome(key, metadata["name"], ended)
        if news:
            self._look(key, event, self._queue.add_soon)

    def _look(self, key: Key, event: str | None, add: Callable[[Key], None]) -> None:
        """Look at a resource, something of which was seen: as `add` says, but for what a listing brought."""
        if event != LISTED:
            add(key)
        elif self._listing is None:
            self._queue.add_after(key, LISTED_SECONDS)
        else:
            self._listing.add(key)
            self._queue.add_after(key, LISTING_SECONDS)

    def node_seen(self, event: str | None, body: Mapping[str, Any]) -> None:
        """A node was listed, changed or deleted; resources may fit now, or no more."""
        if self._notes.inventory.see(body, deleted=event == DELETED):
            for key in self._notes.resources:
                self._queue.add_soon(key)
