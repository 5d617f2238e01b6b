"""What becomes of servers, Jobs and claims where the model is to be kept in another claim than before."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from planning import plan_of, spec_of
from vllm_operator import kinds
from vllm_operator.errors import Blocked, OperatorError, Transient
from vllm_operator.naming import HOLDS_ANNOTATION
from vllm_operator.plan.cache import model_digest, reads_the_same
from vllm_operator.plan.types import LiveWorkload
from vllm_operator.report import Fetched
from world import COMMIT, Jobs, Object

PINNED = {"source": "hf://Qwen/Qwen3-8B", "revision": COMMIT, "maxLength": 8192}
BRANCH = {**PINNED, "revision": "main"}
LATER = COMMIT[::-1]
OWN: Object = {}
SHARED: Object = {"claimName": "shared"}


async def served(model: Object, cache: Object, commit: str = COMMIT) -> Jobs:
    """A resource with a server that runs and reads from a claim that a Job has filled, at rest."""
    world = Jobs(model=model, cache=cache)
    await world.reconcile()
    await filled(world, commit)
    world.roll_out()
    await world.reconcile()
    assert world.ready() == "Available"
    return world


async def filled(world: Jobs, commit: str = COMMIT) -> list[str]:
    """The preload Job ends well; the calls of the pass that follows."""
    world.end("preload", Fetched(commit, 1))
    return await world.reconcile()


def holds(world: Jobs) -> str | None:
    """What the claim of the resource says that it holds."""
    annotations = world.api.objects["PersistentVolumeClaim", "chat-cache"]["metadata"]["annotations"]
    found: str | None = annotations.get(HOLDS_ANNOTATION)
    return found


@pytest.mark.parametrize(
    ("before", "after", "claims"),
    [
        (OWN, SHARED, ("chat-cache", "shared")),
        ({"claimName": "old"}, SHARED, ("old", "shared")),
        ({"reclaimPolicy": "Delete"}, SHARED, ("chat-cache", "shared")),
        (SHARED, OWN, ("shared", "chat-cache")),
        (SHARED, {"reclaimPolicy": "Delete"}, ("shared", "chat-cache")),
    ],
)
async def test_servers_move_to_another_claim_once_a_job_has_filled_it(
    before: Object, after: Object, claims: tuple[str, str]
) -> None:
    world = await served(PINNED, before)
    assert world.claim() == claims[0]
    world.ask(model=PINNED, cache=after)
    calls = await world.reconcile()
    assert "apply Job" in calls
    assert "apply Deployment" not in calls
    assert (world.claim(), world.ready()) == (claims[0], "Preloading")
    assert (world.condition("CacheReady")["status"], world.condition("Available")["status"]) == ("False", "True")
    assert await world.reconcile() == []
    assert "apply Deployment" in await filled(world)
    assert (world.claim(), world.condition("CacheReady")["reason"]) == (claims[1], "Preloaded")


async def test_another_operator_waits_as_well() -> None:
    world = await served(PINNED, OWN)
    world.ask(model=PINNED, cache=SHARED)
    await world.reconcile()
    world.restart()
    world.relist()
    assert await world.reconcile() == []
    assert world.claim() == "chat-cache"


async def test_a_claim_says_that_it_holds_what_a_job_brought_into_it_and_no_other() -> None:
    world = await served(PINNED, SHARED)
    world.ask(model=PINNED, cache=OWN)
    await world.reconcile()
    assert holds(world) is None
    await filled(world)
    assert holds(world) == model_digest(plan_of(spec_of(model=PINNED)).resource.spec)


async def test_servers_move_back_at_once_to_a_claim_that_is_known_to_hold_the_model() -> None:
    world = await served(PINNED, OWN)
    world.ask(model=PINNED, cache=SHARED)
    await world.reconcile()
    await filled(world)
    assert world.claim() == "shared"
    world.ask(model=PINNED, cache=OWN)
    assert "apply Deployment" in await world.reconcile()
    assert world.claim() == "chat-cache"


async def test_servers_start_at_the_commit_that_was_brought_into_their_claim() -> None:
    """The one that was served before may not be in it: the branch has moved on."""
    world = await served(BRANCH, OWN)
    assert COMMIT in world.args()
    world.ask(model=BRANCH, cache=SHARED)
    await world.reconcile()
    await filled(world, LATER)
    assert world.args()[world.args().index("--revision") + 1] == LATER
    assert world.status["model"]["commit"] == LATER


OF_RESOURCE = {"reclaimPolicy": "Delete"}


def has_own(world: Jobs) -> bool:
    """Whether the claim of the resource is there."""
    return ("PersistentVolumeClaim", "chat-cache") in world.api.objects


async def test_a_claim_that_is_to_go_goes_once_all_servers_have_moved() -> None:
    world = await served(PINNED, OF_RESOURCE)
    world.ask(model=PINNED, cache=SHARED)
    assert "delete PersistentVolumeClaim" not in await world.reconcile()
    calls = await filled(world)
    assert "apply Deployment" in calls
    assert "delete PersistentVolumeClaim" not in calls, "the former pods still read from it"
    assert has_own(world)
    world.roll_out()
    assert "delete PersistentVolumeClaim" in await world.reconcile()
    assert await world.reconcile() == []


async def test_a_claim_stays_while_servers_wait_for_another_model_too() -> None:
    world = await served(PINNED, OF_RESOURCE)
    world.ask(model={**PINNED, "source": "hf://Qwen/Qwen3-4B"}, cache=SHARED)
    await world.reconcile()
    world.roll_out()
    await world.reconcile()
    assert has_own(world)


@pytest.mark.parametrize("error", [Transient("502"), Blocked("QuotaExceeded", "no room")])
async def test_a_claim_stays_where_servers_could_not_be_told_to_move(error: OperatorError) -> None:
    world = await served(PINNED, OF_RESOURCE)
    world.ask(model=PINNED, cache=SHARED)
    await world.reconcile()
    world.api.errors["apply Deployment"] = error
    world.end("preload", Fetched(COMMIT, 1))
    await world.fail(type(error))
    assert has_own(world)


async def test_a_claim_of_the_resource_that_a_user_names_is_not_taken_from_its_servers() -> None:
    world = await served(PINNED, OF_RESOURCE)
    world.ask(model=PINNED, cache={"claimName": "chat-cache"})
    await world.reconcile()
    await filled(world)
    world.roll_out()
    await world.reconcile()
    assert has_own(world)


async def test_a_claim_that_is_to_go_goes_where_no_server_is_asked_for() -> None:
    world = await served(PINNED, OF_RESOURCE)
    world.ask(model=PINNED, cache=SHARED, replicas=0)
    await world.reconcile()
    world.roll_out(0)
    assert "delete PersistentVolumeClaim" in await world.reconcile()


# --- a claim that is made anew


async def emptied(model: Object = PINNED) -> Jobs:
    """A resource whose claim was deleted while it was suspended."""
    world = await served(model, OWN)
    world.ask(model=model, suspend=True)
    await world.reconcile()
    world.roll_out(0)
    await world.reconcile()
    world.lose(kinds.CLAIM, "chat-cache")
    return world


async def test_a_claim_that_is_made_anew_is_filled_anew_before_servers_start() -> None:
    world = await emptied()
    assert {"apply PersistentVolumeClaim", "delete Job"} <= set(await world.reconcile())
    assert holds(world) is None
    assert "apply Job" in await world.reconcile()
    world.ask(model=PINNED)
    assert "apply Deployment" not in await world.reconcile()
    assert (world.ready(), world.condition("CacheReady")["reason"], holds(world)) == ("Preloading", "Preloading", None)
    assert "apply Deployment" in await filled(world)
    assert holds(world)


async def test_servers_start_at_the_commit_that_the_claim_was_filled_with_anew() -> None:
    world = await emptied(BRANCH)
    await world.reconcile()
    world.ask(model=BRANCH)
    await world.reconcile()
    await filled(world, LATER)
    assert world.args()[world.args().index("--revision") + 1] == LATER


@pytest.mark.parametrize(
    ("made", "began", "anew"),
    [(+60, -60, True), (0, -60, False), (-60, -60, False), (+60, +60, False)],
    ids=["anew", "as it ended", "before", "before, by the clock of both"],
)
async def test_a_claim_that_is_younger_than_what_filled_it_was_made_anew(made: int, began: int, anew: bool) -> None:  # noqa: FBT001
    """An operator that was away finds it there."""
    world = await served(PINNED, OWN)
    job = world.job("preload")
    assert job
    ended = datetime.fromisoformat(job["status"]["conditions"][0]["lastTransitionTime"])
    claim = world.api.objects["PersistentVolumeClaim", "chat-cache"]
    for one, seconds in ((claim, made), (job, began)):
        one["metadata"]["creationTimestamp"] = (ended + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    if anew:
        del claim["metadata"]["annotations"][HOLDS_ANNOTATION]
    world.restart()
    world.relist()
    calls = await world.reconcile()
    assert ("delete Job" in calls) is anew
    assert "apply Deployment" not in calls, "its servers are what they were"
    assert world.condition("CacheReady")["status"] == str(not anew)
    assert (holds(world) is None) is anew


async def test_servers_that_run_stay_what_they_are_while_their_claim_is_filled_anew() -> None:
    world = await served(PINNED, OWN)
    world.lose(kinds.CLAIM, "chat-cache")
    calls = await world.reconcile()
    assert "delete Job" in calls
    assert "apply Deployment" not in calls
    assert "apply Job" in await world.reconcile()
    assert world.condition("CacheReady")["reason"] == "Preloading"
    await filled(world)
    assert (world.ready(), world.condition("CacheReady")["reason"]) == ("Available", "Preloaded")


async def test_a_job_stays_where_no_claim_can_be_made() -> None:
    world = await emptied()
    world.api.errors["apply PersistentVolumeClaim"] = Blocked("QuotaExceeded", "no room")
    assert "delete Job" not in await world.fail(Blocked)
    assert "delete Job" in await world.reconcile()


async def test_of_a_users_claim_nothing_is_known_whatever_its_name() -> None:
    world = await served(PINNED, {"claimName": "chat-cache"})
    world.restart()
    world.relist()
    assert await world.reconcile() == []


def laid_over(volume: object) -> Object:
    return {"spec": {"volumes": [{"name": "cache", "persistentVolumeClaim": volume}]}}


@pytest.mark.parametrize(
    ("claim", "fields", "same"),
    [
        ("chat-cache", {}, True),
        ("shared", {}, False),
        ("", {}, True),
        ("shared", {"cache": SHARED}, True),
        ("chat-cache", {"cache": SHARED}, False),
        ("other", {"cache": {"preload": False}}, True),
        ("mine", {"podTemplate": laid_over({"claimName": "mine"})}, True),
        ("chat-cache", {"podTemplate": laid_over({"claimName": "mine"})}, False),
        ("chat-cache", {"podTemplate": laid_over({"readOnly": True})}, True),
        ("chat-cache", {"podTemplate": laid_over({"claimName": 7})}, True),
        ("chat-cache", {"podTemplate": laid_over(None)}, True),
    ],
)
def test_which_claim_servers_are_to_read_from(claim: str, fields: dict[str, Any], same: bool) -> None:  # noqa: FBT001
    spec = plan_of(spec_of(**fields)).resource.spec
    running = LiveWorkload(1, owns_replicas=True, model_digest=model_digest(spec), claim=claim)
    assert reads_the_same(spec, "chat", running) is same
    assert not reads_the_same(spec, "chat", replace(running, model_digest="other"))
