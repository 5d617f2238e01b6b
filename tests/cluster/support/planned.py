"""What must exist for a resource, by the operator's own plan of its present spec, held against what does exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.support.api import Api, Manifest, kind_of, path_of
from cluster.support.covering import differences
from cluster.support.service import Service
from vllm_operator import kinds
from vllm_operator.api.parse import parse
from vllm_operator.inventory import Inventory
from vllm_operator.keeping import recorded
from vllm_operator.naming import FIELD_MANAGER, MANAGED_SELECTOR, controller_of, resource_of
from vllm_operator.observed import live_claim, reduce
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.render import render

_APPLY = f"?fieldManager={FIELD_MANAGER}&force=true&dryRun=All"
_SAME_APPLY = ("spec", "data")


def planned(service: Service) -> list[Manifest]:
    """Return the children that the resource asks for now, on the nodes that there are now."""
    body = service.body
    inventory = Inventory()
    for node in service.api.list(kinds.NODE):
        inventory.see(node)
    previous = (body.get("status") or {}).get("sizing", {}).get("gpu", "")
    claim = service.child(kinds.CLAIM, "-cache")
    limit = live_claim(reduce(claim)) if claim else None
    facts = Facts(offers=inventory.offers(), claim=limit, previous_product=previous)
    plan = make_plan(parse(body), Defaults(), facts)
    assert plan.refusal is None, plan.refusal
    return [recorded(manifest) for manifest in render(plan)]


def deviations(service: Service) -> list[str]:
    """Return how the live children differ from the plan, in either direction; claims that are retained may be more."""
    wanted = {_name(one): one for one in planned(service) if kind_of(one) in kinds.CHILDREN}
    live = {_name(one): one for one in service.children() if _name(one) in wanted or not _is_retained(one)}
    found = [f"{name} is missing" for name in sorted(wanted.keys() - live.keys())]
    found += [f"{name} is not in the plan" for name in sorted(live.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & live.keys()):
        found += [f"{name}{text}" for text in differences(wanted[name], live[name])]
        found += [f"{name}{text}" for text in _unsettled(service.api, wanted[name], live[name])]
    return found


def strays(api: Api, namespace: str) -> list[str]:
    """Return children in a namespace that belong to no resource that exists, but for claims that are retained."""
    uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in api.list(kinds.RESOURCE, namespace)}
    there = [one for kind in kinds.CHILDREN if not kind.optional for one in api.list(kind, namespace, MANAGED_SELECTOR)]
    lost = [one for one in there if not _belongs(one, uids) and not _is_retained(one)]
    return [f"{_name(one)} of {resource_of(one['metadata'])}" for one in lost]


def _belongs(one: Manifest, uids: Mapping[str, str]) -> bool:
    owner = controller_of(one["metadata"])
    return owner is not None and owner["uid"] == uids.get(str(resource_of(one["metadata"])), "")


def _is_retained(one: Manifest) -> bool:
    return one["kind"] == kinds.CLAIM.kind and controller_of(one["metadata"]) is None


def _name(one: Manifest) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def _unsettled(api: Api, wanted: Manifest, live: Manifest) -> list[str]:
    """What applying the manifest once more would change, by the API server's own word: leftovers of older applies."""
    metadata = wanted["metadata"]
    path = path_of(kind_of(wanted), metadata["namespace"], metadata["name"]) + _APPLY
    applied: Manifest = api.call("PATCH", path, wanted, "application/apply-patch+yaml")
    parts = [(key, live.get(key), applied.get(key)) for key in _SAME_APPLY]
    parts += [(key, live["metadata"].get(key), applied["metadata"].get(key)) for key in ("labels", "ownerReferences")]
    parts.append(("owned fields", _owned(live), _owned(applied)))
    return [f" would be applied again: {key}" for key, before, after in parts if before != after]


def _owned(one: Manifest) -> Any:  # noqa: ANN401 - any FieldsV1
    entries = one["metadata"].get("managedFields") or ()
    return [
        entry["fieldsV1"] for entry in entries if (entry["manager"], entry["operation"]) == (FIELD_MANAGER, "Apply")
    ]
