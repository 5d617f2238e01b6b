"""Read, apply and delete objects; every failure comes back as an error that says what to do about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration

from vllm_operator.cluster import connection
from vllm_operator.cluster.author import Author
from vllm_operator.cluster.breaker import Breaker
from vllm_operator.cluster.bucket import TokenBucket
from vllm_operator.cluster.call import JSON, Call, as_yaml, decoded, path_of
from vllm_operator.cluster.connection import Connection
from vllm_operator.cluster.counting import OnCall, verb_and_resource
from vllm_operator.cluster.failures import Refusal, refusal, to_error
from vllm_operator.cluster.sockets import RestClient
from vllm_operator.errors import Blocked, Conflict, Transient
from vllm_operator.kinds import BY_NAME, EVENT, LEASE, POD, RESOURCE, Kind
from vllm_operator.naming import FIELD_MANAGER, REPAIR_MANAGER, repair_entry

Object = dict[str, Any]
Objects = list[Object]

_PAGE = 500  # what client-go's pager asks for
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
# Logs come from a kubelet, which may be out of the API server's reach: no pass waits long for that.
_LOG_TIMEOUT = aiohttp.ClientTimeout(total=5, sock_connect=5)
_LOG_BYTES = 256 * 1024  # the kubelet cuts off the end beyond that
_TEXT = "text/plain, */*"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
# The parameter keeps the client from encoding the body itself, see `as_yaml`; the API server ignores it.
_APPLY = "application/apply-patch+yaml; charset=utf-8"
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
# An apply with a resource version is refused when the object is of another one; what does not exist is made, of every
# kind since 1.23 (https://github.com/kubernetes/kubernetes/issues/106745). Versions are revisions of the store, and the
# first is that of the empty one.
_OF_NO_OBJECT = "1"


_LEASES = f"/apis/{LEASE.api_version}/"


class Cluster:
    """A Kubernetes API server, as an async context manager.

    Every method raises Transient when the server or the network fails for a while, Conflict on 409, Gone when the
    namespace or the resource has vanished and Blocked when somebody else has to act; UsageError when there is no
    usable kubeconfig. At most `connections` requests are under way, writes pass a token bucket, and a server that is
    away is left alone (`breaker`). What writes raises NotLeading, and sends nothing, while the author has no time left;
    no write outlasts it.
    """

    on_call: OnCall | None = None  # hears of every request, of attempts with stale credentials too

    def __init__(
        self,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        connections: int = 20,
        writes_per_second: float = 200,
        burst: int = 400,
        author: Author | None = None,
    ) -> None:
        self._source = (kubeconfig, context)
        self._author = author or Author()
        self._connections = connections
        self._bucket = TokenBucket(writes_per_second, burst)
        self._breaker = Breaker()
        self._renewal = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._configuration = Configuration(connection_pool_maxsize=self._connections)
        await connection.load(self._configuration, *self._source)
        self._api = ApiClient(self._configuration)
        self._api.rest_client = RestClient(self._configuration, lambda: self._author.time_left() > 0)
        self._api.user_agent = "/".join(filter(None, (FIELD_MANAGER, self._author.identity)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._api.close()

    async def connection(self) -> Connection:
        """Address and fresh credentials, for a client that watches."""
        async with self._renewal:
            await connection.load(self._configuration, *self._source)
        return await connection.describe(self._configuration)

    @property
    def is_away(self) -> bool:
        """Whether the API server does not answer, by what requests found, or what the one who keeps the Lease found."""
        return self._breaker.is_open or self._author.time_left() <= 0

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server knows a kind (its CRD is installed), by discovery."""
        listing = await self._read(Call("GET", path_of(kind, None).rpartition("/")[0]))
        return any(resource["name"] == kind.plural for resource in (listing or {}).get("resources") or ())

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """A live object; None when there is none."""
        return await self._read(Call("GET", path_of(kind, namespace, name)))

    async def get_metadata(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """PartialObjectMetadata of a live object; None when there is none."""
        return await self._read(Call("GET", path_of(kind, namespace, name), accept=_METADATA))

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Objects:
        """All objects of a kind, in one namespace or in all; none of an optional kind that the server lacks."""
        return [item async for item in self.each(kind, namespace, selector)]

    async def each(self, kind: Kind, namespace: str | None = None, selector: str = "") -> AsyncIterator[Object]:
        """As `list`, one after the other: of many, most are in memory for a moment only."""
        async for item in self._pages(kind, namespace, selector, JSON):
            item.setdefault("apiVersion", kind.api_version)  # lists of built-in kinds leave these out
            item.setdefault("kind", kind.kind)
            yield item

    async def names(self, kind: Kind, selector: str = "", namespace: str | None = None) -> set[tuple[str, str]]:
        """Namespace (empty for none) and name of every object that `list` would return.

        Asked for as PartialObjectMetadata, an order of magnitude less to send and to read.
        """
        pages = self._pages(kind, namespace, selector, _METADATA_LIST)
        return {(item["metadata"].get("namespace", ""), item["metadata"]["name"]) async for item in pages}

    async def apply(
        self, manifest: Object, manager: str = FIELD_MANAGER, *, new: bool = False, dry_run: bool = False
    ) -> Object:
        """Server-side apply; the fields of the manifest become ours. Returns the live object.

        `new`: only if there is none of the name; raises Conflict and changes nothing when there is one.
        """
        kind = BY_NAME[manifest["apiVersion"], manifest["kind"]]
        metadata = manifest["metadata"]
        path = path_of(kind, metadata.get("namespace"), metadata["name"])
        if new:
            manifest = {**manifest, "metadata": {**metadata, "resourceVersion": _OF_NO_OBJECT}}
        applied = await self._apply(path, manifest, manager, dry_run=dry_run)
        entry = None if dry_run else repair_entry(applied["metadata"])
        return applied if entry is None else await self._end_repair(path, entry)

    async def apply_alone(self, manifest: Object) -> Object:
        """As `apply`, but the lists of `spec` hold nothing beside ours: for when others' items make the whole invalid.

        A merge patch replaces lists. What it wrote would stay ours for good, whatever later applies leave out, so it
        runs under another manager, whose entry the apply that follows removes.
        """
        kind, metadata = BY_NAME[manifest["apiVersion"], manifest["kind"]], manifest["metadata"]
        path = path_of(kind, metadata["namespace"], metadata["name"])
        query, body = [("fieldManager", REPAIR_MANAGER)], {"spec": manifest["spec"]}
        await self._change(Call("PATCH", path, query, content_type=_MERGE, body=body))
        return await self.apply(manifest)

    async def _end_repair(self, path: str, entry: int) -> Object:
        """Remove the entry of the manager of repairs; raises Conflict when the entries have moved meanwhile."""
        place = f"/metadata/managedFields/{entry}"
        is_it = {"op": "test", "path": f"{place}/manager", "value": REPAIR_MANAGER}
        removal = [is_it, {"op": "remove", "path": place}]
        call = Call("PATCH", path, content_type=_JSON_PATCH, body=removal)
        answer = await self._write(call)
        if isinstance(answer, Refusal):
            moved = answer.code == HTTPStatus.UNPROCESSABLE_ENTITY
            raise Conflict(f"{call}: the fields' managers changed meanwhile") if moved else to_error(answer)
        return answer

    async def apply_status(self, namespace: str, name: str, status: Object) -> Object:
        """Server-side apply of the whole status of a resource; returns the live resource, raises Gone without one."""
        manifest = {
            "apiVersion": RESOURCE.api_version,
            "kind": RESOURCE.kind,
            "metadata": {"name": name},
            "status": status,
        }
        return await self._apply(path_of(RESOURCE, namespace, name, "status"), manifest, FIELD_MANAGER, dry_run=False)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> bool:
        """Delete that very object, its dependents in the background; False when it is gone or another has its name."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        answer = await self._write(Call("DELETE", path_of(kind, namespace, name), body=options))
        if isinstance(answer, Refusal):
            if answer.code in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                return False
            raise to_error(answer)
        return True

    async def create(self, manifest: Object) -> Object:
        """Create an object and return it; Conflict when one of that name exists."""
        kind = BY_NAME[manifest["apiVersion"], manifest["kind"]]
        return await self._change(Call("POST", path_of(kind, manifest["metadata"]["namespace"]), body=manifest))

    async def replace(self, manifest: Object) -> Object:
        """Overwrite an object and return it; Conflict unless it still is of the manifest's resource version."""
        kind, metadata = BY_NAME[manifest["apiVersion"], manifest["kind"]], manifest["metadata"]
        return await self._change(Call("PUT", path_of(kind, metadata["namespace"], metadata["name"]), body=manifest))

    async def create_event(self, namespace: str, event: Object) -> bool:
        """Create a core/v1 Event; False when one of that name exists."""
        answer = await self._write(Call("POST", path_of(EVENT, namespace), body=event))
        if isinstance(answer, Refusal):
            if answer.code == HTTPStatus.CONFLICT:
                return False
            raise to_error(answer)
        return True

    async def patch_event(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Object | None:
        """Merge a patch into a core/v1 Event and return it; None when it has expired."""
        call = Call("PATCH", path_of(EVENT, namespace, name), content_type=_MERGE, body=dict(patch))
        answer = await self._write(call)
        if isinstance(answer, Refusal):
            if answer.code == HTTPStatus.NOT_FOUND:
                return None
            raise to_error(answer)
        return answer

    async def pod_log(self, namespace: str, pod: str, container: str, *, previous: bool, lines: int) -> str:
        """The last lines of a container's log, or with `previous` of the run before; at most 256 KiB.

        Raises the errors of `get`, and Gone without such a pod.
        """
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(_LOG_BYTES)}
        if previous:
            query["previous"] = "true"
        path = f"{path_of(POD, namespace, pod)}/log"
        answer = await self._exchange_renewed(Call("GET", path, [*query.items()], _TEXT, timeout=_LOG_TIMEOUT))
        if isinstance(answer, Refusal):
            raise to_error(answer)
        return answer.decode(errors="replace")

    async def events_about(self, namespace: str, uid: str) -> Objects:
        """The first hundred Events about an object, in no order."""
        query = [("fieldSelector", f"involvedObject.uid={uid}"), ("limit", "100")]
        return list((await self._read(Call("GET", path_of(EVENT, namespace), query)) or {}).get("items") or ())

    async def _apply(self, path: str, manifest: Object, manager: str, *, dry_run: bool) -> Object:
        query = [("fieldManager", manager), ("force", "true"), *([("dryRun", "All")] if dry_run else ())]
        return await self._change(Call("PATCH", path, query, content_type=_APPLY, body=as_yaml(manifest)))

    async def _change(self, call: Call) -> Object:
        answer = await self._write(call)
        if isinstance(answer, Refusal):
            raise to_error(answer)
        return answer

    async def _pages(self, kind: Kind, namespace: str | None, selector: str, accept: str) -> AsyncIterator[Object]:
        token = ""
        while True:
            query = [("limit", str(_PAGE))]
            query += [(key, value) for key, value in (("labelSelector", selector), ("continue", token)) if value]
            answer = await self._send(Call("GET", path_of(kind, namespace), query, accept=accept))
            if isinstance(answer, Refusal):
                error = to_error(answer)
                if kind.optional and isinstance(error, Blocked) and error.reason == "CRDNotInstalled":
                    return
                raise error
            for item in answer.get("items") or ():
                yield item
            token = answer["metadata"].get("continue", "")
            if not token:
                return

    async def _read(self, call: Call) -> Object | None:
        answer = await self._send(call)
        if isinstance(answer, Refusal):
            if answer.code == HTTPStatus.NOT_FOUND:
                return None
            raise to_error(answer)
        return answer

    async def _write(self, call: Call) -> Object | Refusal:
        await self._bucket.take()
        return await self._send(call)

    async def _send(self, call: Call) -> Object | Refusal:
        answer = await self._exchange_renewed(call)
        return answer if isinstance(answer, Refusal) else decoded(call, answer)

    async def _exchange_renewed(self, call: Call) -> bytes | Refusal:
        """As `_exchange`, once more with fresh credentials when the ones at hand are refused."""
        token = self._configuration.api_key.get("BearerToken")
        answer = await self._exchange(call)
        if isinstance(answer, Refusal) and answer.code == HTTPStatus.UNAUTHORIZED:
            await self._renew(token)
            return await self._exchange(call)
        return answer

    async def _renew(self, refused: str | None) -> None:
        """Read the credentials again, unless another request has done so since `refused` was used."""
        async with self._renewal:
            if self._configuration.api_key.get("BearerToken") == refused:
                await connection.load(self._configuration, *self._source)

    async def _exchange(self, call: Call) -> bytes | Refusal:
        left = None if call.method == "GET" else self._author.seconds_for(str(call))
        if not call.path.startswith(_LEASES):  # which are renewed in time or lost
            self._breaker.admit(str(call))
        method, url, headers, *_ = await self._api.param_serialize(
            call.method,
            call.path,
            query_params=list(call.query),
            header_params={"Accept": call.accept, "Content-Type": call.content_type},
            auth_settings=["BearerToken"],
        )
        timeout = call.timeout or _TIMEOUT
        started, code = time.monotonic(), "error"
        try:
            async with asyncio.timeout(left):
                response = await self._api.call_api(method, url, headers, call.body, _request_timeout=timeout)
                body: bytes = await response.read()
            code = str(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._note(call, failed=True)
            raise Transient(f"{call}: {str(error) or type(error).__name__}") from error
        finally:
            if self.on_call:
                self.on_call(*verb_and_resource(call.method, call.path), code, time.monotonic() - started)
        if response.status >= HTTPStatus.BAD_REQUEST:
            refused = refusal(str(call), response.status, response.headers, body)
            self._note(call, failed=refused.is_failure)
            return refused
        self._note(call, failed=False)
        return body

    def _note(self, call: Call, *, failed: bool) -> None:
        if call.timeout is not _LOG_TIMEOUT:  # a kubelet that does not answer says nothing of the API server
            self._breaker.note(failed=failed)
