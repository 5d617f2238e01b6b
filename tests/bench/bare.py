"""The floor: a client without any control loop that writes the same children in the same order.

It knows everything beforehand (manifests rendered, nothing to look up) and only does what cannot be left out: write
each object once, and write a server once its cache is filled. Nobody can converge with fewer writes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from vllm_operator import kinds
from vllm_operator.api.parse import parse
from vllm_operator.cluster import Cluster
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.render import render

Object = dict[str, Any]
IN_FLIGHT = 16
_SHORTEST_PAUSE, _LOOKED_AT_PER_SECOND = 0.25, 400


def pause(count: int) -> float:
    """Seconds between two looks at so many objects: to list a thousand costs the API server a dozen writes."""
    return max(_SHORTEST_PAUSE, count / _LOOKED_AT_PER_SECOND)


def client(kubeconfig: Path) -> Cluster:
    """A client that nothing holds back."""
    return Cluster(kubeconfig=str(kubeconfig), connections=IN_FLIGHT + 4, writes_per_second=1e6, burst=1_000_000)


async def each(items: list[Any], work: Any) -> None:  # noqa: ANN401 - an async function of one item
    """Do `work` for every item, so many at once."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(item: Any) -> None:  # noqa: ANN401
        async with gate:
            await work(item)

    await asyncio.gather(*(one(item) for item in items))


def children(resource: Object) -> list[Object]:
    """What the operator would apply for a resource, without an owner: nobody has made the resource."""
    manifests = render(make_plan(parse(resource), Defaults(), Facts()))
    for manifest in manifests:
        manifest["metadata"].pop("ownerReferences", None)
    return manifests


async def write(cluster: Cluster, resources: list[Object]) -> None:
    """Write the children of all resources; servers follow as soon as their preload Job is complete."""
    planned = [children(resource) for resource in resources]

    async def before(manifests: list[Object]) -> None:
        for manifest in manifests:
            if manifest["kind"] != "Deployment":
                await cluster.apply(manifest)

    async def server(manifests: list[Object]) -> None:
        await cluster.apply(next(one for one in manifests if one["kind"] == "Deployment"))

    await each(planned, before)
    await each([group for group in planned if all(one["kind"] != "Job" for one in group)], server)
    waiting = {one["metadata"]["name"]: group for group in planned for one in group if one["kind"] == "Job"}
    namespace = resources[0]["metadata"]["namespace"]
    while waiting:
        done = [job["metadata"]["name"] for job in await cluster.list(kinds.JOB, namespace) if _complete(job)]
        ready = [waiting.pop(name) for name in done if name in waiting]
        await each(ready, server)
        if waiting:
            await asyncio.sleep(pause(len(resources)))


def _complete(job: Object) -> bool:
    return any(
        one["type"] == "Complete" and one["status"] == "True" for one in job.get("status", {}).get("conditions", ())
    )


async def until_available(cluster: Cluster, namespace: str, count: int) -> None:
    """Wait until so many Deployments have their replicas."""
    while True:
        listed = await cluster.list(kinds.DEPLOYMENT, namespace)
        if sum(one.get("status", {}).get("availableReplicas", 0) > 0 for one in listed) >= count:
            return
        await asyncio.sleep(pause(count))
