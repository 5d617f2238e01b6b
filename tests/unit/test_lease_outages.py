"""What an outage of the API server makes of those who stand for election, in virtual time against a store in memory."""

import asyncio
import logging
import re
from dataclasses import dataclass, replace

import pytest

from leases import TERMS, Shelf, candidate, keeping, leader, loses, now, seconds
from virtualtime import virtual_time
from vllm_operator.errors import Transient
from vllm_operator.lease import OUTAGE_SECONDS, Election


@dataclass
class Outage:
    """What happens to a Shelf for a while."""

    fails: Exception | None = None
    hangs: bool = False

    async def over(self, shelf: Shelf, seconds: float) -> None:
        shelf.fail = self.fails
        for door in shelf.doors:
            door.hangs = self.hangs
        await asyncio.sleep(seconds)
        shelf.fail = None
        for door in shelf.doors:
            door.hangs = False


AWAY = Outage(Transient("away"))
HUNG = Outage(hangs=True)


@pytest.mark.parametrize("lasts", [3.0, 7.0, 9.0, 11.0, 14.0, 16.0, 30.0, OUTAGE_SECONDS - 1])
@pytest.mark.parametrize("outage", [AWAY, HUNG], ids=["away", "hung"])
def test_after_an_outage_the_same_one_leads(outage: Outage, lasts: float) -> None:
    @virtual_time
    async def story() -> None:
        shelf = Shelf()
        election = await leader(shelf)
        campaign = asyncio.create_task(candidate(shelf, "b").campaign())
        async with keeping(election):
            await asyncio.sleep(60.5)
            await outage.over(shelf, lasts)
            assert election.is_leader == (0.5 + lasts < TERMS.deadline)
            await asyncio.sleep(TERMS.answer + TERMS.retry)
            assert election.is_leader
            await asyncio.sleep(600)
        assert shelf.record is not None
        assert (shelf.record.holder, shelf.record.transitions) == ("a", 0)
        campaign.cancel()

    story()


@pytest.mark.parametrize("outage", [AWAY, HUNG], ids=["away", "hung"])
def test_a_leader_that_died_in_an_outage_is_followed_after_it(outage: Outage) -> None:
    @virtual_time
    async def story() -> None:
        shelf = Shelf()
        election = await leader(shelf)
        follower = candidate(shelf, "b")
        campaign = asyncio.create_task(follower.campaign())
        async with keeping(election):
            await asyncio.sleep(60)
        await outage.over(shelf, 300)
        assert await seconds(campaign) <= TERMS.duration + TERMS.answer + TERMS.retry
        assert follower.is_leader

    story()


@virtual_time
async def test_an_outage_is_two_lines_of_the_leader_and_one_of_the_follower(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    election = await leader(shelf)
    campaign = asyncio.create_task(candidate(shelf, "b").campaign())
    async with keeping(election):
        await asyncio.sleep(60)
        caplog.set_level(logging.INFO)
        caplog.clear()
        for _ in range(2):
            await AWAY.over(shelf, 300)
            await asyncio.sleep(60)
    campaign.cancel()
    said = [record.getMessage() for record in caplog.records if "not renewed" not in record.getMessage()]
    once = [
        "the lease cannot be read or taken: away",
        "not leading until the lease is renewed, for which time is up: away",
        "leading again after 291.8 s",
    ]
    assert [re.sub(r"29\d\.\d", "291.8", one) for one in said] == once * 2
    assert len(caplog.records) - len(said) <= 2 * TERMS.deadline


@virtual_time
async def test_what_does_not_heal_ends_after_ten_minutes() -> None:
    shelf = Shelf()
    election = await leader(shelf)
    began = now()
    shelf.fail = Transient("away")
    assert await loses(election) == "The lease is lost: it could not be renewed for 600 s."
    assert now() - began == pytest.approx(TERMS.deadline + OUTAGE_SECONDS, abs=TERMS.retry)


@virtual_time
async def test_whose_lease_somebody_cleared_meanwhile_ends() -> None:
    shelf = Shelf()
    election = await leader(shelf)
    asyncio.get_running_loop().call_later(29, lambda: shelf.record and shelf.put(replace(shelf.record, holder="")))
    asyncio.create_task(AWAY.over(shelf, 30))  # noqa: RUF006 - is over before the test is
    assert await loses(election) == "The lease is lost: nobody holds it."


@virtual_time
async def test_who_ends_in_an_outage_tries_once_to_give_back() -> None:
    shelf = Shelf()
    election = await leader(shelf)
    shelf.doors[0].hangs = True
    async with keeping(election):
        await asyncio.sleep(60)
    assert await seconds(election.resign()) == pytest.approx(TERMS.answer)
    shelf.doors[0].hangs = False
    await election.resign()
    assert shelf.record is not None
    assert shelf.record.holder == ""


@virtual_time
async def test_who_was_asleep_as_well_does_not_take_it_from_who_was() -> None:
    """The whole machine slept: the Lease has not changed, and its holder has just woken up too."""
    shelf, asleep = Shelf(), 0.0
    await leader(shelf)
    follower = Election(shelf.door(), "b", TERMS, clock=lambda: now() + asleep, jitter=lambda: 0.5)
    campaign = asyncio.create_task(follower.campaign())
    await asyncio.sleep(5)
    asleep = 3600
    waited = await seconds(campaign)
    assert TERMS.duration - 5 - TERMS.retry <= waited <= TERMS.duration - 5 + TERMS.retry
