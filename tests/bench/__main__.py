"""Many resources at once, beside a bare client that writes the same children; then what the operator does when idle."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import operator_process
from bench import bare
from localcluster import nodes
from localcluster.audit import AuditEvent
from localcluster.cluster import Cluster as LocalCluster
from operator_process import OperatorProcess
from vllm_operator import kinds
from vllm_operator.api import API_VERSION, KIND
from vllm_operator.cluster import Cluster

Object = dict[str, Any]
GOAL = 2.0
_POLL = 0.25


def resource(index: int, namespace: str) -> Object:
    """One of many alike: claim, preload Job, Service and Deployment."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": f"bench-{index}", "namespace": namespace},
        "spec": {
            "model": {"source": "hf://Qwen/Qwen2.5-7B-Instruct", "maxLength": 8192},
            "gpu": {"product": "NVIDIA-GeForce-RTX-4090", "count": 1},
        },
    }


@dataclass(frozen=True, slots=True)
class Converged:
    """How long it took, in seconds, and what it cost the operator."""

    seconds: float
    calls: Counter[str]
    resident_mib: float


async def _floor(cluster: Cluster, count: int) -> float:
    resources = [resource(index, "bench-bare") for index in range(count)]
    started = time.monotonic()
    await bare.write(cluster, resources)
    await bare.until_available(cluster, "bench-bare", count)
    return time.monotonic() - started


async def _until_ready(cluster: Cluster, namespace: str, count: int) -> None:
    while True:
        listed = await cluster.list(kinds.RESOURCE, namespace)
        if sum(one.get("status", {}).get("phase") == "Ready" for one in listed) >= count:
            return
        await asyncio.sleep(_POLL)


async def _converge(cluster: Cluster, count: int) -> float:
    resources = [resource(index, "bench-operator") for index in range(count)]
    started = time.monotonic()
    await bare.each(resources, lambda one: cluster.apply(one, "bench"))
    await _until_ready(cluster, "bench-operator", count)
    return time.monotonic() - started


def _resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _calls(events: Iterable[AuditEvent]) -> Counter[str]:
    return Counter(
        f"{event.verb} {event.resource}{'/' + event.subresource if event.subresource else ''}"
        for event in events
        if event.stage == "ResponseComplete"
    )


def _watches_only(calls: Counter[str]) -> bool:
    return all(name.startswith("watch ") for name in calls)


async def _measure(local: LocalCluster, count: int, idle: float) -> int:
    for namespace in ("bench-bare", "bench-operator"):
        local.kubectl("create", "namespace", namespace)
    local.add_nodes(nodes.scale_nodes(2 * count))
    operator_process.install(local.kubectl)
    account = local.kubeconfig_for(operator_process.ACCOUNT, operator_process.NAMESPACE)
    operator = OperatorProcess(account, local.folder / "operator.log", {"writes_per_second": "10000", "burst": "10000"})
    async with bare.client(local.kubeconfig) as cluster:
        floor = await _floor(cluster, count)
        operator.start()
        operator.wait_ready()
        mark = local.audit_mark()
        seconds = await _converge(cluster, count)
        calls = _calls(local.audit_events(operator_process.USER, mark))
        memory = _resident_mib(operator.process.pid)
        await asyncio.sleep(5)
        mark = local.audit_mark()
        await asyncio.sleep(idle)
        quiet = _calls(local.audit_events(operator_process.USER, mark))
    operator.stop()
    _report(count, floor, Converged(seconds, calls, memory))
    print(f"requests in {idle:.0f} s of idleness: {dict(quiet) or 'none'}")
    return 0 if seconds <= GOAL * floor and _watches_only(quiet) else 1


def _report(count: int, floor: float, seen: Converged) -> None:
    total = sum(number for name, number in seen.calls.items() if not name.startswith("watch "))
    print(f"{count} resources, bare client:  {floor:6.1f} s until every Deployment is available")
    print(f"{count} resources, operator:     {seen.seconds:6.1f} s until every resource is Ready, status included")
    print(f"ratio: {seen.seconds / floor:.2f} (goal: at most {GOAL})")
    print(f"calls per resource: {total / count:.1f}")
    for name, number in seen.calls.most_common():
        print(f"  {number / count:6.2f}  {name}")
    print(f"resident memory of the operator: {seen.resident_mib:.0f} MiB")


def main() -> int:
    """Run on a control plane of its own; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--resources", type=int, default=200, help="how many at once (default: 200)")
    parser.add_argument("--idle", type=float, default=30, help="seconds to watch the idle operator (default: 30)")
    args = parser.parse_args()
    local = LocalCluster.start("bench", bound=True)
    try:
        return asyncio.run(_measure(local, args.resources, args.idle))
    finally:
        local.down()


if __name__ == "__main__":
    raise SystemExit(main())
