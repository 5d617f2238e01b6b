"""List and watch, by kopf: the one thing it does here.

Handlers only pass events on. Nothing is stored in objects (no finalizers, no annotations), nothing is indexed, and no
state of kopf's is trusted: a watch that was interrupted reports survivors, but not what vanished meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any, Protocol

import kopf
from aiohttp import ClientSession, TCPConnector
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory  # public as a parameter only

from vllm_operator.api import GROUP
from vllm_operator.cluster import Cluster, Connection
from vllm_operator.cluster.sockets import uses_proxies
from vllm_operator.kinds import NODE, POD, RESOURCE, Kind
from vllm_operator.naming import FIELD_MANAGER, MANAGED_SELECTOR
from vllm_operator.pacing import ErrorDelays, Pace
from vllm_operator.scope import Scope

log = logging.getLogger(__name__)

_KOPF = Path(kopf.__file__).parent
# The end of a watch: how long it may take, and how long until what did not end is told again.
END_SECONDS = 6.0
_END_ROUND_SECONDS = 2.0
# kopf leaves its nested generators to the event loop, which closes each within a few turns of its own. A loop that ends
# before closes them all at once, inner ones first, and logs an error for each outer one; see `_say_what_matters`.
_CLOSING_TURNS = 50

Body = Mapping[str, Any]
_See = Callable[[str | None, Body], None]


class Listener(Protocol):
    """Who is told what was seen, and must not block.

    `event` is ADDED, MODIFIED, DELETED, or None for what a listing found.
    """

    def resource_seen(self, event: str | None, body: Body) -> None:
        """A VLLMDeployment."""

    def child_seen(self, kind: Kind, event: str | None, body: Body) -> None:
        """A child of one of the watched kinds, with the operator's label."""

    def pod_seen(self, event: str | None, body: Body) -> None:
        """A pod with the operator's label."""

    def node_seen(self, event: str | None, body: Body) -> None:
        """A node."""

    def all_listed(self) -> None:
        """Everything was listed once, and all of that was told or is about to be."""


class _NoDiffs(kopf.DiffBaseStorage):
    """Spares kopf a deep copy and a comparison per event, which nobody reads."""

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        return None


class _NoMemories(ResourceMemories):
    """Spares a kilobyte for each object: handlers of events use nothing of what kopf remembers between them."""

    async def recall(self, raw_body: kopf.RawBody, **options: Any) -> ResourceMemory:  # noqa: ANN401 - kopf's own
        return await super().recall(raw_body, **{**options, "ephemeral": True})


def _settings(scope: Scope) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    for kind in (*scope.children, POD):
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = MANAGED_SELECTOR
    # What a listing brings is in memory until it has been told on, and for as long as kopf's worker for it idles: with
    # 1,000 resources these two make 30 MiB less at the start than pages of 100 and a fifth of a second.
    settings.watching.chunk_size = 50
    settings.queueing.idle_timeout = 0.05
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.inactivity_timeout = 70  # bookmarks come every minute: a watch without them is dead
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.enforce_retry_after = False  # what the server asks for is the least, not the most
    settings.networking.error_backoffs = ErrorDelays()
    settings.persistence.diffbase_storage = _NoDiffs()
    # Never used; should they be, by accident, the traces would bear our name.
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.posting.enabled = False
    settings.scanning.disabled = True  # would need rights on all CRDs and namespaces
    settings.process.ultimate_exiting_timeout = 28  # below a pod's grace period of 30
    return settings


def _on_event(registry: kopf.OperatorRegistry, kind: Kind, see: _See) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)
    async def seen(event: kopf.RawEvent, **_: object) -> None:  # a sync handler would run in a thread
        see(event["type"], event["object"])


def _session(known: Connection, pace: Pace) -> ClientSession:
    """The HTTP client that kopf would make of these credentials, but for the pace; kopf closes it."""
    info = kopf.ConnectionInfo(
        server=known.server,
        ca_path=known.ca_path,
        insecure=known.insecure,
        certificate_path=known.certificate_path,
        private_key_path=known.private_key_path,
        scheme=known.scheme,
        token=known.token,
    )
    return ClientSession(
        connector=TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        proxy=known.proxy_url,
        trust_env=uses_proxies(),
        middlewares=(pace,),
    )


def _registry(listener: Listener, cluster: Cluster, scope: Scope) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    watched: dict[Kind, _See] = {RESOURCE: listener.resource_seen}
    if scope.nodes:
        watched[NODE] = listener.node_seen
    watched[POD] = listener.pod_seen
    watched |= {kind: partial(listener.child_seen, kind) for kind in scope.children}
    watches = sum(len(scope.places) if kind.namespaced else 1 for kind in watched)
    pace = Pace(cluster, watches, listener.all_listed)

    @kopf.on.login(registry=registry)
    async def login(**_: object) -> kopf.AiohttpSession:
        known = await cluster.connection()
        return kopf.AiohttpSession(server=known.server, aiohttp_session=_session(known, pace))

    for kind, see in watched.items():
        _on_event(registry, kind, see)
    return registry


async def watch(listener: Listener, cluster: Cluster, scope: Scope, stop: asyncio.Event, ready: asyncio.Event) -> None:
    """Watch until `stop` is set, or a signal arrives; `ready` is set when watching begins.

    Raises whatever a watch died of once ten minutes of attempts are used up.
    """
    roots = await kopf.spawn_tasks(
        registry=_registry(listener, cluster, scope),
        settings=_settings(scope),
        memories=_NoMemories(),
        # kopf's own would ask for the user's name, and the user of a pod has none.
        identity=FIELD_MANAGER,  # type: ignore[arg-type]  # a NewType of str that kopf does not export
        clusterwide=not scope.namespaces,
        namespaces=scope.namespaces,
        standalone=True,
        stop_flag=stop,
        ready_flag=ready,
    )
    try:
        ended, _ = await asyncio.wait(roots, return_when=asyncio.FIRST_COMPLETED)
        stopped = stop.is_set()
    finally:
        await _end(roots)
    failures = [failure for task in ended if (failure := _failure(task))]
    if failures and not stopped:
        raise failures[0]


async def _end(roots: Collection[asyncio.Task[None]]) -> None:
    """End all tasks of kopf within a few seconds.

    `kopf.run_tasks` would cancel whatever began after kopf, a pass in progress included, and would wait for good when
    one of its watchers loses the cancellation, which happens when an answer arrives at that moment.
    """
    for task in roots:
        task.cancel()
    deadline = asyncio.get_running_loop().time() + END_SECONDS
    while (left := _tasks_of_kopf()) and asyncio.get_running_loop().time() < deadline:
        _, stuck = await asyncio.wait(left, timeout=_END_ROUND_SECONDS)
        for task in stuck - set(roots):  # a second cancellation would keep a root task from cleaning up
            task.cancel()
        for task in left:
            _failure(task)  # one that nobody asks for is logged as lost
    for _ in range(_CLOSING_TURNS):
        await asyncio.sleep(0)
    asyncio.get_running_loop().set_exception_handler(_say_what_matters)
    if left:
        log.warning("kopf did not end: %s", ", ".join(sorted(task.get_name() for task in left)))


def _say_what_matters(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what a loop met, but for the generators of kopf that were left to its end all the same."""
    if not _is_of_kopf(getattr(context.get("asyncgen"), "ag_code", None)):
        loop.default_exception_handler(context)


def _tasks_of_kopf() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if _is_of_kopf(getattr(task.get_coro(), "cr_code", None))}


def _is_of_kopf(code: CodeType | None) -> bool:
    return code is not None and _KOPF in Path(code.co_filename).parents


def _failure(task: asyncio.Task[Any]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None
