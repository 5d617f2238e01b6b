"""What can be looked at: found out before anything is watched, for a watch that is refused ends the process."""

from __future__ import annotations

import logging

from vllm_operator.api import GROUP, PLURAL
from vllm_operator.cluster import Cluster
from vllm_operator.errors import Blocked
from vllm_operator.kinds import CHILDREN, NODE, RESOURCE, Kind
from vllm_operator.naming import MANAGED_SELECTOR
from vllm_operator.scope import Scope

log = logging.getLogger(__name__)


async def find_scope(cluster: Cluster, namespaces: tuple[str, ...]) -> Scope:
    """The part of these namespaces (none: of all) that may be looked at.

    One namespace that is not granted keeps nobody from serving the others. Raises Blocked without the CRD, or when none
    is granted.
    """
    if not await cluster.serves(RESOURCE):
        name = f"{PLURAL}.{GROUP}"
        raise Blocked(
            "CRDNotInstalled", f"the CRD {name} is missing: kubectl apply --server-side -f crds/{PLURAL}.yaml"
        )
    if not namespaces:
        return Scope((), await _children(cluster, Scope()))
    granted = Scope(await _granted(cluster, namespaces))
    nodes = await _may_list(cluster, NODE, Scope(), "GPUs are taken as the GPU table says")
    return Scope(granted.namespaces, await _children(cluster, granted), nodes)


async def _granted(cluster: Cluster, namespaces: tuple[str, ...]) -> tuple[str, ...]:
    found, refusals = list[str](), list[Blocked]()
    for namespace in namespaces:
        try:
            await cluster.names(RESOURCE, MANAGED_SELECTOR, namespace)
        except Blocked as error:
            log.error("namespace %s is not served: %s", namespace, error)  # noqa: TRY400 - the sentence says it all
            refusals.append(error)
        else:
            found.append(namespace)
    if not found:
        raise refusals[0]
    return tuple(found)


async def _children(cluster: Cluster, scope: Scope) -> tuple[Kind, ...]:
    """The kinds of children; those of other projects only where they are installed and may be listed."""
    return tuple([kind for kind in CHILDREN if not kind.optional or await _is_there(cluster, kind, scope)])


async def _is_there(cluster: Cluster, kind: Kind, scope: Scope) -> bool:
    return await cluster.serves(kind) and await _may_list(cluster, kind, scope, "it is not watched")


async def _may_list(cluster: Cluster, kind: Kind, scope: Scope, consequence: str) -> bool:
    try:
        for place in scope.places:
            await cluster.names(kind, "" if kind is NODE else MANAGED_SELECTOR, place)
    except Blocked as error:
        log.warning("%s: %s: %s", kind, consequence, error)
        return False
    return True
