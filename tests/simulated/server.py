"""An API server in memory: server-side apply with field owners, watches by label, and the controllers that matter.

Lists belong to their manager as a whole (real ones have keys), and nothing is validated but what an operator runs into:
a Job's template is immutable. Everything happens in one namespace.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_operator import kinds
from vllm_operator.errors import Blocked, Conflict, Gone
from vllm_operator.kinds import BY_NAME, Kind
from vllm_operator.naming import FIELD_MANAGER, MANAGED_BY, controller_of

Object = dict[str, Any]
Path = tuple[str, ...]
Ref = tuple[Kind, str]
Tell = Callable[[str | None, Kind, Object], None]

NAMESPACE = "team-a"
_NEWS_SECONDS = 0.02  # from a change to whoever watches
_ROLLOUT_SECONDS, _BIND_SECONDS, _JOB_SECONDS, _COLLECT_SECONDS, _SCALE_SECONDS = 0.2, 0.1, 1.0, 0.5, 1.0
_IDENTITY = (("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"))


@dataclass(slots=True)
class Stored:
    """An object, and which manager applied which of its fields."""

    body: Object
    owners: dict[str, set[Path]] = field(default_factory=dict)


def _leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:  # noqa: ANN401 - any JSON
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, tree


def _at(tree: Any, path: Path) -> Any:  # noqa: ANN401 - any JSON
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _put(tree: Object, path: Path, value: object) -> None:
    for key in path[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[path[-1]] = copy.deepcopy(value)


def _remove(tree: Object, path: Path) -> None:
    """Remove a field, and what is empty without it."""
    parent = _at(tree, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
        if not parent and len(path) > 1:
            _remove(tree, path[:-1])


def _fields_v1(paths: set[Path]) -> Object:
    tree: Object = {}
    for path in sorted(paths):
        below = tree
        for key in path:
            below = below.setdefault(f"f:{key}", {})
    return tree


def _is_told(kind: Kind, body: Object | None) -> bool:
    """Whether a watch of the operator is sent the object."""
    if body is None or kind in (kinds.RESOURCE, kinds.NODE):
        return body is not None
    return (body["metadata"].get("labels") or {}).get(MANAGED_BY) == FIELD_MANAGER


class Server:
    """Objects by kind and name, told to whoever watches."""

    def __init__(self) -> None:
        self._version = 0
        self._objects: dict[Ref, Stored] = {}
        self._watchers: list[Tell] = []
        self.refused: set[Kind] = set()  # kinds that somebody's admission webhook fails on

        self.interjections: list[Callable[[], object]] = []  # what happens right before the next status is written

    # --- reading

    def get(self, kind: Kind, name: str) -> Object | None:
        found = self._objects.get((kind, name))
        if found is None:
            return None
        body = copy.deepcopy(found.body)
        body["metadata"]["managedFields"] = [
            {"manager": who, "operation": "Apply", "fieldsV1": _fields_v1(paths)} for who, paths in found.owners.items()
        ]
        return body

    def list(self, kind: Kind) -> list[Object]:
        """Everything of a kind that the operator's selector selects."""
        found = (self.get(one, name) for one, name in tuple(self._objects) if one is kind)
        return [body for body in found if body and _is_told(kind, body)]

    def children(self) -> Iterator[Object]:
        """Everything that an operator could have made."""
        for kind, name in tuple(self._objects):
            if kind in kinds.CHILDREN and (body := self.get(kind, name)):
                yield body

    # --- writing

    def apply(self, manifest: Object, manager: str, *, new: bool = False) -> Object:
        """Server-side apply, by force; `new`: of what is not there yet."""
        kind, name = BY_NAME[manifest["apiVersion"], manifest["kind"]], manifest["metadata"]["name"]
        if kind in self.refused:
            raise Blocked("WebhookFailed", f"failed calling webhook for {kind} {name}")
        if new and (kind, name) in self._objects:
            raise Conflict(name)
        old = self._objects.get((kind, name)) or Stored({"metadata": {}})
        wanted = {path: value for path, value in _leaves(manifest) if path not in _IDENTITY}
        if kind is kinds.JOB and old.owners and _changes_template(old.body, manifest):
            raise Blocked("Rejected", "spec.template: field is immutable")
        body, owners = copy.deepcopy(old.body), {who: set(paths) for who, paths in old.owners.items()}
        for path in owners.pop(manager, set()) - wanted.keys():
            if not any(path in paths for paths in owners.values()):
                _remove(body, path)
        for path, value in wanted.items():
            if _at(body, path) != value:
                _put(body, path, value)
                for paths in owners.values():
                    paths.discard(path)
        self._commit(kind, name, Stored(body, {**owners, manager: set(wanted)}))
        return self._present(kind, name)

    def report(self, kind: Kind, name: str, status: Object) -> Object:
        """Write the status."""
        found = self._objects.get((kind, name))
        if found is None:
            raise Gone(name)
        self._commit(kind, name, Stored({**found.body, "status": copy.deepcopy(status)}, found.owners))
        return self._present(kind, name)

    def interject(self) -> None:
        """Let happen what was to happen right now."""
        waiting, self.interjections = self.interjections, []
        for act in waiting:
            act()

    def spoil(self, kind: Kind, name: str, path: Path, value: object, manager: str = "stranger") -> None:
        """Somebody else sets a field, or removes it (None), and takes it over."""
        found = self._objects[kind, name]
        body, owners = copy.deepcopy(found.body), {who: paths - {path} for who, paths in found.owners.items()}
        if value is None:
            _remove(body, path)
        else:
            _put(body, path, value)
            owners[manager] = owners.get(manager, set()) | {path}
        self._commit(kind, name, Stored(body, owners))

    def delete(self, kind: Kind, name: str, uid: str = "") -> bool:
        """Delete an object, if it is that very one; its dependents follow."""
        found = self._objects.get((kind, name))
        if found is None or uid not in ("", found.body["metadata"]["uid"]):
            return False
        self._version += 1
        del self._objects[kind, name]
        gone = {**found.body, "metadata": {**found.body["metadata"], "resourceVersion": str(self._version)}}
        if _is_told(kind, found.body):
            self._tell("DELETED", kind, gone)
        if kind is kinds.RESOURCE:
            self._later(_COLLECT_SECONDS, self._collect)
        return True

    @property
    def version(self) -> int:
        """Moves with every change."""
        return self._version

    def _present(self, kind: Kind, name: str) -> Object:
        found = self.get(kind, name)
        assert found is not None
        return found

    def _commit(self, kind: Kind, name: str, new: Stored) -> None:
        old = self._objects.get((kind, name))
        if kind is kinds.DEPLOYMENT:
            new.body["spec"].setdefault("replicas", 1)
        if old is not None and new == old:
            return
        self._version += 1
        known: Object = old.body["metadata"] if old else {"uid": f"{kind}-{self._version}", "generation": 0}
        changed = old is None or new.body.get("spec") != old.body.get("spec")
        new.body |= {"apiVersion": kind.api_version, "kind": kind.kind}
        new.body["metadata"] = {
            **(new.body.get("metadata") or {}),
            "name": name,
            "namespace": NAMESPACE,
            "uid": known["uid"],
            "generation": known["generation"] + changed,
            "resourceVersion": str(self._version),
        }
        self._objects[kind, name] = new
        self._tell_change(kind, name, old.body if old else None)
        self._control(kind, name)

    # --- telling

    def watch(self, tell: Tell) -> Callable[[], None]:
        """List everything, then tell of every change, in order and a moment later; returns what ends it.

        As with kopf, the listing says nothing of what vanished before it.
        """
        news: deque[tuple[str | None, Kind, Object]] = deque()

        def pump() -> None:
            if news:
                tell(*news.popleft())

        def note(event: str | None, kind: Kind, body: Object) -> None:
            news.append((event, kind, body))
            self._later(_NEWS_SECONDS, pump)

        def end() -> None:
            news.clear()
            if note in self._watchers:
                self._watchers.remove(note)

        for kind in (kinds.NODE, kinds.RESOURCE, *kinds.CHILDREN):
            for body in self.list(kind):
                note(None, kind, body)
        self._watchers.append(note)
        return end

    def _tell_change(self, kind: Kind, name: str, before: Object | None) -> None:
        after = self._present(kind, name)
        was, now = _is_told(kind, before), _is_told(kind, after)
        if was or now:
            self._tell("MODIFIED" if was and now else "ADDED" if now else "DELETED", kind, after)

    def _tell(self, event: str, kind: Kind, body: Object) -> None:
        for tell in tuple(self._watchers):
            tell(event, kind, copy.deepcopy(body))

    # --- the controllers of Kubernetes

    @staticmethod
    def _later(seconds: float, act: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, act)

    def _control(self, kind: Kind, name: str) -> None:
        """What follows when an object has changed."""
        reports: dict[Kind, tuple[float, Callable[[Object], Object]]] = {
            kinds.DEPLOYMENT: (_ROLLOUT_SECONDS, _rolled_out),
            kinds.CLAIM: (_BIND_SECONDS, lambda _: {"phase": "Bound"}),
            kinds.JOB: (_JOB_SECONDS, lambda _: {"conditions": [{"type": "Complete", "status": "True"}]}),
        }
        if kind in reports:
            seconds, status_of = reports[kind]
            self._later(seconds, lambda: self._follow(kind, name, status_of))
        if kind in kinds.CHILDREN:
            self._later(_COLLECT_SECONDS, self._collect)
        if kind in (kinds.DEPLOYMENT, kinds.AUTOSCALER):
            self._later(_SCALE_SECONDS, self._scale)

    def _follow(self, kind: Kind, name: str, status_of: Callable[[Object], Object]) -> None:
        if found := self._objects.get((kind, name)):
            self.report(kind, name, status_of(found.body))

    def _scale(self) -> None:
        """There is no load: what has an autoscaler gets the least that it may have."""
        for one in self.list(kinds.AUTOSCALER):
            name, least = one["spec"]["scaleTargetRef"]["name"], one["spec"].get("minReplicas", 1)
            found = self._objects.get((kinds.DEPLOYMENT, name))
            if found and found.body["spec"]["replicas"] != least:
                self.spoil(kinds.DEPLOYMENT, name, ("spec", "replicas"), least, "autoscaler")

    def _collect(self) -> None:
        """Delete what belongs to a resource that is not there."""
        alive = {one["metadata"]["uid"] for one in self.list(kinds.RESOURCE)}
        for kind, name in tuple(self._objects):
            owner = controller_of(self._objects[kind, name].body["metadata"])
            if owner is not None and owner["uid"] not in alive:
                self.delete(kind, name)


def _changes_template(old: Object, manifest: Object) -> bool:
    template = manifest["spec"]["template"]
    return any(_at(old["spec"]["template"], path) != value for path, value in _leaves(template))


def _rolled_out(body: Object) -> Object:
    """The status of a Deployment all of whose pods are ready."""
    counts = dict.fromkeys(
        ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), body["spec"]["replicas"]
    )
    return {"observedGeneration": body["metadata"]["generation"], **counts}
