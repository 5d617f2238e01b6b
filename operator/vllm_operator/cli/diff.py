"""`diff FILE`: what applying a resource would change in the cluster, as the API server itself computes it."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
from typing import Any

import yaml

from vllm_operator import kinds
from vllm_operator.api.parse import Resource
from vllm_operator.cli.documents import read_resources
from vllm_operator.cli.settings import configuration
from vllm_operator.cluster import Cluster
from vllm_operator.errors import OperatorError, UsageError
from vllm_operator.keeping import keep_template, may_keep, recorded
from vllm_operator.naming import MANAGED_SELECTOR, Key, resource_of
from vllm_operator.observed import claimed_by_others, reduce
from vllm_operator.plan.types import Plan
from vllm_operator.reconciler import Reconciler
from vllm_operator.recorder import Recorder
from vllm_operator.render import render

DIFFERENT = 1
REFUSED = 3
_BOOKKEEPING = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    """Describe the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "diff",
        help="show what applying a VLLMDeployment would change in the cluster",
        description="Compare the children that a resource would have with those that exist, by a server-side dry run. "
        "Exit code 0: no difference, 1: some, 3: the operator would refuse the resource.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="YAML file or folder; - is standard input")
    parser.add_argument("-n", "--namespace", help="namespace of resources that name none")
    parser.add_argument("--kubeconfig", help="kubeconfig file (default: as kubectl)")
    parser.add_argument("--context", help="context of the kubeconfig")


def run(args: argparse.Namespace) -> int:
    """Print unified diffs."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    config, defaults = configuration({"kubeconfig": args.kubeconfig, "context": args.context})
    code = 0
    async with Cluster(kubeconfig=config.kubeconfig, context=config.context) as cluster:
        reconciler = Reconciler(cluster, defaults, Recorder(cluster))
        await reconciler.start()
        for _, resource in read_resources(args.files, args.namespace):
            code = max(code, await _diff(cluster, reconciler, resource))
    return code


async def _diff(cluster: Cluster, reconciler: Reconciler, resource: Resource) -> int:
    key = Key(resource.namespace, resource.name)
    live = await cluster.get(kinds.RESOURCE, key.namespace, key.name)
    plan = await reconciler.plan_for(key, resource, live or {}, looks_first=True)
    if plan.refusal:
        print(f"{key}: refused ({plan.refusal.reason}): {plan.refusal.message}", file=sys.stderr)
        return REFUSED
    uid = live["metadata"]["uid"] if live else ""
    manifests = [_handed_over(recorded(manifest), plan) for manifest in render(plan)]
    changed = [await _diff_child(cluster, manifest, uid) for manifest in manifests]
    planned = {(child.kind.kind, child.name) for child in plan.children}
    removed = [await _removed(cluster, key, kind, planned, uid) for kind in kinds.CHILDREN if not kind.optional]
    return DIFFERENT if any(changed) or any(removed) else 0


def _handed_over(manifest: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """A manifest as the operator leaves it: replicas that it lets go of keep their number."""
    if manifest["kind"] == kinds.DEPLOYMENT.kind and plan.handover_replicas is not None:
        return {**manifest, "spec": {**manifest["spec"], "replicas": plan.handover_replicas}}
    return manifest


async def _diff_child(cluster: Cluster, manifest: dict[str, Any], uid: str) -> bool:
    """Print the difference of one child; true when there is one. What the operator cannot or must not write is said."""
    metadata = manifest["metadata"]
    for owner in metadata.get("ownerReferences", ()):
        owner["uid"] = uid
    if not uid:
        metadata.pop("ownerReferences", None)  # the resource is not there yet, and an owner needs a uid
    kind = kinds.BY_NAME[manifest["apiVersion"], manifest["kind"]]
    before = await cluster.get(kind, metadata["namespace"], metadata["name"])
    if before and (foreign := claimed_by_others(reduce(before), kind, uid or "none yet")):
        print(f"{kind} {metadata['name']}: {foreign}", file=sys.stderr)
        return False
    if before and may_keep(manifest, before):
        manifest = keep_template(manifest, before)
    try:
        after = await cluster.apply(manifest, dry_run=True)
    except OperatorError as error:
        if kind.optional:
            print(f"{kind} {metadata['name']}: {error}", file=sys.stderr)
            return False
        raise UsageError(f"{kind} {metadata['name']}: the API server refuses it: {error}") from error
    return _print(f"{kind}/{metadata['name']}", before, after)


async def _removed(cluster: Cluster, key: Key, kind: kinds.Kind, planned: set[tuple[str, str]], uid: str) -> bool:
    """Print children that the plan holds no more; true when there are any."""
    listed = await cluster.list(kind, key.namespace, MANAGED_SELECTOR)
    gone = [
        body
        for body in listed
        if resource_of(body["metadata"]) == key.name
        and any(owner["uid"] == uid for owner in body["metadata"].get("ownerReferences") or ())
        and (kind.kind, body["metadata"]["name"]) not in planned
    ]
    for body in gone:
        _print(f"{kind}/{body['metadata']['name']}", body, None)
    return bool(gone)


def _lines(body: dict[str, Any] | None) -> list[str]:
    if body is None:
        return []
    metadata = {key: value for key, value in body["metadata"].items() if key not in _BOOKKEEPING}
    shown = {**body, "metadata": metadata}
    shown.pop("status", None)
    return yaml.safe_dump(shown, sort_keys=True, width=120).splitlines(keepends=True)


def _print(name: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> bool:
    lines = list(difflib.unified_diff(_lines(before), _lines(after), f"live/{name}", f"planned/{name}"))
    sys.stdout.writelines(lines)
    return bool(lines)
