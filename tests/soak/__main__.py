"""A change a second, for minutes or days: whether memory grows, tasks pile up or the queue falls behind."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench import bare
from bench.figures import Figure, quantile, show
from bench.scene import Scene, control_plane
from scraping import scrape

GROWTH_GOAL_PERCENT, QUEUE_AGE_GOAL_SECONDS = 5.0, 1.0
_SEED = 20260101
# So much of the time passes before growth is measured: allocators and caches fill up first.
_WARM_UP = 0.25
_QUIET_SECONDS = 8.0  # after which kopf has ended the tasks of objects at rest
_REPORT_SECONDS = 600.0


@dataclass(slots=True)
class Seen:
    """What was sampled, once per change."""

    at: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    queue_age: list[float] = field(default_factory=list)

    def sample(self, scene: Scene) -> None:
        page = scrape(scene.operator.port)
        self.at.append(time.monotonic())
        self.resident_mib.append(scene.resident_mib())
        self.queue_age.append(page.total("workqueue_oldest_age_seconds"))

    def figures(self) -> Iterator[Figure]:
        warm = int(len(self.at) * _WARM_UP)
        begin, end = (quantile(part, 0.5) for part in (self.resident_mib[warm:][:30], self.resident_mib[-30:]))
        yield Figure("changes", len(self.at))
        yield Figure("resident memory, after the first quarter", begin, "MiB")
        yield Figure("resident memory, at the end", end, "MiB")
        yield Figure("growth", 100 * (end / begin - 1), "%", GROWTH_GOAL_PERCENT)
        yield Figure("age of the queue, p99", quantile(self.queue_age, 0.99), "s", QUEUE_AGE_GOAL_SECONDS)


def _tasks(scene: Scene) -> int:
    """How many asyncio tasks the operator has, by what it says of itself when it is asked."""
    mark = scene.operator.mark()
    scene.operator.process.send_signal(signal.SIGUSR2)
    time.sleep(2.0)
    return scene.operator.tail(mark, lines=10_000).count(" a task")


async def _change(scene: Scene, count: int, seconds: float) -> Seen:
    """Change one resource a second, at random."""
    luck, seen = random.Random(_SEED), Seen()  # noqa: S311 - the same in every run
    began = told = time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        await scene.apply(scene.changed(luck.randrange(count), luck.randrange(1, 1000)))
        seen.sample(scene)
        if now - told > _REPORT_SECONDS:
            told = now
            print(f"{now - began:.0f} s: {seen.resident_mib[-1]:.0f} MiB", flush=True)
        await asyncio.sleep(max(0.0, began + len(seen.at) - time.monotonic()))
    return seen


async def _soak(count: int, seconds: float) -> list[Figure]:
    with control_plane("soak", 2 * count) as (local, operator):
        async with bare.client(local.kubeconfig) as client:
            scene = Scene(local, client, operator)
            operator.start()
            operator.wait_ready()
            await bare.each([scene.resource(index) for index in range(count)], scene.apply)
            await scene.until_ready(count)
            await scene.until_calm(_QUIET_SECONDS)
            before = _tasks(scene)
            seen = await _change(scene, count, seconds)
            await scene.until_calm(_QUIET_SECONDS)
            after = _tasks(scene)
        assert operator.stop() == 0
    return [*seen.figures(), Figure("tasks more than before, at rest", after - before, "", 0)]


def main() -> int:
    """Run on a control plane of its own; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--resources", type=int, default=50, help="how many there are (default: 50)")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to change them (default: 2; a day: 1440)")
    args = parser.parse_args()
    return show(asyncio.run(_soak(args.resources, 60 * args.minutes)))


if __name__ == "__main__":
    raise SystemExit(main())
