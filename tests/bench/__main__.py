"""Many resources at once, one alone, changes, a storm, a restart: beside a client that only writes what must be."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator

from bench import bare, phases, pure
from bench.figures import Figure, show
from bench.scene import EPHEMERAL, Object, Scene, control_plane, resource


async def _measure(count: int, idle: float, fields: Object, *, floor: bool) -> AsyncIterator[list[Figure]]:
    """Measure one thing after the other; `fields` of every spec, `floor`: the client that only writes too."""
    yield pure.measure(resource(0))
    with control_plane("bench", 2 * count + 32) as (local, operator):
        async with bare.client(local.kubeconfig) as client:
            scene = Scene(local, client, operator, fields)
            floors: list[float] = []
            if floor:
                floors.append(await phases.floor(scene, count))
                scene.empty()
            operator.start()
            operator.wait_ready()
            seconds, figures = await phases.converge(scene, count)
            yield figures
            yield await phases.idle(scene, idle)
            yield await phases.events(scene, count)
            yield await phases.restart(scene, count)
            yield await phases.alone(scene)
            assert operator.stop() == 0
            if floor:
                scene.empty()
                floors.append(await phases.floor(scene, count))
                yield phases.compare(count, seconds, floors)


async def _tell(count: int, idle: float, fields: Object, *, floor: bool) -> int:
    """Show figures as they come; 1 when a goal was missed."""
    return max([show(figures) async for figures in _measure(count, idle, fields, floor=floor)])


def main() -> int:
    """Run on a control plane of its own; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--resources", type=int, default=200, help="how many at once (default: 200)")
    parser.add_argument("--idle", type=float, default=30, help="seconds to watch the idle operator (default: 30)")
    parser.add_argument("--no-floor", action="store_true", help="without the client that only writes, and its ratio")
    parser.add_argument("--ephemeral", action="store_true", help="without claims, whose binding takes most of the time")
    args = parser.parse_args()
    fields = EPHEMERAL if args.ephemeral else {}
    return asyncio.run(_tell(args.resources, args.idle, fields, floor=not args.no_floor))


if __name__ == "__main__":
    raise SystemExit(main())
