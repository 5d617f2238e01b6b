"""Whatever happens in whatever order, the outcome is that of an undisturbed run, and it costs at most twice the writes.

A story is made of demands (a user's edits and deletions, strangers' changes and deletions of children, somebody's
webhook that refuses) and of disturbances (requests that fail, answers that are lost, watches that miss things, an
operator that dies and another one that takes over), with pauses between. When it is over and nothing fails any more

- what exists, and the status, is what a fresh operator makes of the last spec (golden);
- an operator that is never disturbed is there within a minute (five, if a webhook refused): no event is missed;
- nothing is written any more;
- the writes that changed something were at most twice the minimum: what an operator writes that is told the same
  demands, with the same pauses, and is never disturbed. An edit that comes in a pass comes at another time there: too
  late to be carried out, it may be, before the resource is deleted. Then it counts as if it had come at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from simulated.connection import Fault
from simulated.world import RESYNC_SECONDS, SETTLED_SECONDS, World
from vllm_operator import kinds
from vllm_operator.naming import MANAGED_BY, RESOURCE_ANNOTATION

STEPS = 30
_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_SCALED = {"autoscaling": {"minReplicas": 1, "maxReplicas": 3}}

# A spec is one choice of each row, so that it is always valid. The first one asks for least.
FACETS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "model": (
        {"model": {"source": "hf://Qwen/Qwen3-8B", "revision": _COMMIT, "maxLength": 8192}},
        {"model": {"source": "hf://Qwen/Qwen3-4B", "revision": _COMMIT, "maxLength": 8192}},
        {"model": {"source": "hf://Qwen/Qwen3-32B", "revision": _COMMIT, "maxLength": 8192}},  # does not fit
    ),
    "scale": ({}, {"replicas": 0}, {"replicas": 2}, _SCALED, {"suspend": True}, {**_SCALED, "suspend": True}),
    "cache": (
        {"cache": {"ephemeral": True}},
        {"cache": {"size": "100Gi", "reclaimPolicy": "Delete"}},
        {"cache": {"claimName": "shared"}},
    ),
    "engine": ({}, {"engine": {"image": "registry.example/vllm:v0.32.1"}}, {"engine": {"maxSequences": 64}}),
    "network": ({}, {"networkPolicy": {}}),
    "monitoring": ({}, {"monitoring": {"dashboard": True}}),
}
_GPU = {"gpu": {"count": 1, "product": "NVIDIA-A100-SXM4-40GB"}}
_TOO_BIG = 2

Demand = tuple[str, tuple[Any, ...]]
"""A method of World, and what it is called with."""

# Owners are left alone: what loses its owner just before the resource is deleted stays, for want of a finalizer.
SPOILT = (
    (kinds.DEPLOYMENT, ("spec", "replicas"), 7),
    (kinds.DEPLOYMENT, ("spec", "template", "spec", "containers"), [{"name": "vllm", "image": "rival.example/vllm:1"}]),
    (kinds.DEPLOYMENT, ("spec", "template", "spec", "terminationGracePeriodSeconds"), None),
    (kinds.DEPLOYMENT, ("metadata", "labels", MANAGED_BY), None),
    (kinds.SERVICE, ("spec", "ports"), [{"port": 9}]),
    (kinds.SERVICE, ("metadata", "annotations", RESOURCE_ANNOTATION), None),
    (kinds.SERVICE, ("metadata", "labels", MANAGED_BY), "helm"),
    (kinds.CLAIM, ("metadata", "labels", "app.kubernetes.io/name"), "spoilt"),
    (kinds.AUTOSCALER, ("spec", "maxReplicas"), 9),
    (kinds.CONFIG_MAP, ("data", "chat.json"), "{}"),
)
_CHILDREN = tuple(kind for kind in kinds.CHILDREN if not kind.optional)
_PAUSES = (0.0, 0.004, 0.03, 0.3, 1.5, 20.0, 700.0)
_PROMPT_SECONDS, _AFTER_REFUSAL_SECONDS = 60.0, 310.0


class Story(RuleBasedStateMachine):
    """Tells a story to a world, remembers the demands of it, and judges the end."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.choice = dict.fromkeys(FACETS, 0)
        self.demands: list[Demand] = []
        self.ends_with_deletion = False
        self._demand("ask", self._spec())

    def _spec(self) -> Mapping[str, Any]:
        spec: dict[str, Any] = dict(_GPU)
        for facet, option in self.choice.items():
            spec |= FACETS[facet][option]
        return spec

    def _demand(self, name: str, *values: Any) -> None:  # noqa: ANN401 - as the method of World takes them
        self.demands.append((name, values))
        getattr(self.world, name)(*values)

    # --- demands

    @rule(facet=st.sampled_from(tuple(FACETS)), option=st.integers(0, 5))
    def edit(self, facet: str, option: int) -> None:
        self.choice[facet] = option % len(FACETS[facet])
        self._demand("ask", self._spec())

    @rule(facet=st.sampled_from(tuple(FACETS)), option=st.integers(0, 5))
    def edit_in_a_pass(self, facet: str, option: int) -> None:
        self.choice[facet] = option % len(FACETS[facet])
        self._demand("ask_in_a_pass", self._spec())

    @precondition(lambda self: self.world.spec is not None)
    @rule()
    def delete(self) -> None:
        self._demand("delete")

    @rule()
    def end_with_deletion(self) -> None:
        self.ends_with_deletion = True

    @rule(kind=st.sampled_from(_CHILDREN))
    def remove(self, kind: kinds.Kind) -> None:
        self._demand("remove", kind)

    @rule(what=st.sampled_from(SPOILT))
    def spoil(self, what: tuple[Any, ...]) -> None:
        self._demand("spoil", *what)

    @rule(kind=st.sampled_from(_CHILDREN))
    def refuse(self, kind: kinds.Kind) -> None:
        self._demand("refuse", kind)

    @rule()
    def admit(self) -> None:
        self._demand("admit")

    @rule(seconds=st.sampled_from(_PAUSES))
    def wait(self, seconds: float) -> None:
        self._demand("wait", seconds)

    # --- disturbances

    @rule(faults=st.lists(st.sampled_from(Fault), min_size=1, max_size=4))
    def fail(self, faults: list[Fault]) -> None:
        self.world.faults.pending.extend(faults)

    @rule(seconds=st.sampled_from((1.0, 30.0, 400.0)))
    def lose(self, seconds: float) -> None:
        self.world.lose(seconds)

    @rule()
    def look_away(self) -> None:
        self.world.look_away()

    @rule()
    def look(self) -> None:
        self.world.look()

    @rule()
    def replace(self) -> None:
        self.world.replace()

    # --- the end

    def teardown(self) -> None:
        try:
            self._end()
        finally:
            self.world.close()

    def _end(self) -> None:
        if self.choice["model"] == _TOO_BIG:  # what is refused leaves what there was, which no fresh operator knows
            self.edit("model", 0)
        self._edit_in_the_last_pass()
        if self.ends_with_deletion:
            self._demand("delete")
        self._demand("admit")
        self.world.heal()
        self._demand("wait", SETTLED_SECONDS)
        golden, calm = self._golden(), self._calm(self.demands)
        assert calm.outcome() == golden, "undisturbed"
        assert self.world.outcome() == golden
        needed, used = calm.tally.changes, self.world.tally.changes
        if len(used) > 2 * len(needed):
            needed = self._calm([_at_once(*demand) for demand in self.demands]).tally.changes
        assert len(used) <= 2 * len(needed), f"needed: {needed}; used: {used}"
        asked = len(self.world.tally.requests)
        self.world.wait(2 * RESYNC_SECONDS)
        assert self.world.tally.requests[asked:] == [], "it does not come to rest"

    def _edit_in_the_last_pass(self) -> None:
        """Once the servers have followed an edit, nothing else happens that would draw attention to another one."""
        self.edit("engine", 1)
        self._demand("wait", 0.3)
        self.edit_in_a_pass("network", 1 - self.choice["network"])
        self._demand("wait", 5.0)
        self._demand("interject")

    def _golden(self) -> dict[str, dict[str, Any]]:
        """What a fresh operator makes of the last spec; nothing where there is none."""
        return _told([("ask", (self.world.spec,)), ("wait", (SETTLED_SECONDS,))] if self.world.spec else []).outcome()

    @staticmethod
    def _calm(demands: Sequence[Demand]) -> World:
        """The demands alone; the last of them is to wait, and that shorter."""
        refused = any(name == "refuse" for name, _ in demands)
        return _told([*demands[:-1], ("wait", (_AFTER_REFUSAL_SECONDS if refused else _PROMPT_SECONDS,))])


def _at_once(name: str, values: tuple[Any, ...]) -> Demand:
    return ("ask" if name == "ask_in_a_pass" else name, values)


def _told(demands: Sequence[Demand]) -> World:
    """A world of its own after these demands."""
    world = World()
    try:
        for name, values in demands:
            getattr(world, name)(*values)
    finally:
        world.close()
    return world


Story.TestCase.settings = settings(stateful_step_count=STEPS)
TestStory = Story.TestCase
