"""The rules of the Lease, one by one, in virtual time against a store in memory; outages: see test_lease_outages.py."""

import asyncio
import logging
from dataclasses import replace

import pytest

from leases import TERMS, Shelf, candidate, keeping, leader, loses, now, seconds
from virtualtime import virtual_time
from vllm_operator.app.leadership import Leadership
from vllm_operator.errors import Blocked
from vllm_operator.lease import Election, Record, Terms


@virtual_time
async def test_who_comes_first_leads_at_once() -> None:
    shelf = Shelf()
    election = candidate(shelf, "a")
    assert election.time_left() < 0
    assert await seconds(election.campaign()) == 0
    assert election.is_leader
    assert election.time_left() == TERMS.deadline
    assert shelf.record is not None
    assert (shelf.record.holder, shelf.record.duration, shelf.record.transitions) == ("a", 15, 0)


@virtual_time
async def test_a_follower_waits_for_as_long_as_the_lease_is_renewed() -> None:
    shelf = Shelf()
    async with keeping(await leader(shelf)):
        campaign = asyncio.create_task(candidate(shelf, "b").campaign())
        await asyncio.sleep(3600)
        assert not campaign.done()
    assert shelf.record is not None
    assert shelf.writes == pytest.approx(1 + 3600 / TERMS.retry, abs=2)
    assert TERMS.duration - TERMS.retry <= await seconds(campaign) <= TERMS.duration + TERMS.retry
    assert (shelf.record.holder, shelf.record.transitions) == ("b", 1)


@virtual_time
async def test_a_lease_is_held_for_as_long_as_its_holder_said() -> None:
    """During an upgrade the terms of old and new may differ."""
    shelf = Shelf()
    await candidate(shelf, "a", Terms(duration=60, deadline=40, retry=5)).campaign()
    assert await seconds(candidate(shelf, "b").campaign()) == 60


@virtual_time
async def test_what_clock_the_holder_goes_by_does_not_matter() -> None:
    shelf = Shelf()
    shelf.record = Record("a", 15, 3, acquired="1970-01-01T00:00:00Z", renewed="1970-01-01T00:00:00Z", version="1")
    assert await seconds(candidate(shelf, "b").campaign()) == 15
    assert shelf.record.transitions == 4


@virtual_time
async def test_what_is_given_back_is_taken_at_the_next_look() -> None:
    shelf = Shelf()
    first = await leader(shelf)
    campaign = asyncio.create_task(candidate(shelf, "b").campaign())
    await asyncio.sleep(5)
    await first.resign()
    assert not first.is_leader
    assert shelf.record is not None
    assert (shelf.record.holder, shelf.record.duration, shelf.record.transitions) == ("", 1, 0)
    assert await seconds(campaign) <= TERMS.retry
    assert (shelf.record.holder, shelf.record.transitions) == ("b", 1)


@virtual_time
async def test_only_ones_own_lease_is_given_back() -> None:
    shelf = Shelf()
    follower = candidate(shelf, "b")
    await leader(shelf)
    await follower.resign()
    assert shelf.record is not None
    assert shelf.record.holder == "a"


@virtual_time
async def test_a_failure_to_give_back_is_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    first = await leader(shelf)
    shelf.fail = Blocked("Forbidden", "no")
    await first.resign()
    assert not first.is_leader
    assert "the lease was not given back: no" in caplog.text


@virtual_time
async def test_time_counts_from_when_a_renewal_was_sent() -> None:
    shelf = Shelf()
    election = candidate(shelf, "a")
    shelf.slowness = 1.5
    await election.campaign()
    assert election.time_left() == TERMS.deadline - 1.5
    async with keeping(election):
        await asyncio.sleep(TERMS.retry + 1.5 + 0.1)
        assert election.time_left() == pytest.approx(TERMS.deadline - 1.6)


@pytest.mark.parametrize("failure", [Blocked("Forbidden", "no"), None])
def test_a_leader_that_cannot_renew_stops_before_another_may_start(failure: Exception | None) -> None:
    @virtual_time
    async def story() -> None:
        shelf = Shelf()
        election = await leader(shelf)
        began = now()
        follower = candidate(shelf, "b")
        campaign = asyncio.create_task(follower.campaign())
        await asyncio.sleep(0.1)
        shelf.doors[0].fail, shelf.doors[0].hangs = failure, failure is None
        async with keeping(election):
            await asyncio.sleep(began + TERMS.deadline - now())
            assert not election.is_leader
            await campaign
            assert now() - began >= TERMS.duration
        shelf.doors[0].fail, shelf.doors[0].hangs = None, False
        assert await loses(election) == "The lease is lost: b holds it."
        assert follower.is_leader

    story()


@virtual_time
async def test_a_request_that_hangs_leaves_time_for_another() -> None:
    shelf = Shelf()
    election = await leader(shelf)
    shelf.hang_next = 2
    async with keeping(election):
        for _ in range(600):
            await asyncio.sleep(0.1)
            assert election.is_leader


@virtual_time
async def test_an_answer_that_is_lost_is_no_loss() -> None:
    shelf = Shelf()
    election = candidate(shelf, "a")
    shelf.lose_next = 1
    await election.campaign()
    shelf.lose_next = 1
    async with keeping(election):
        await asyncio.sleep(60)
    assert shelf.record is not None
    assert (shelf.record.holder, shelf.record.transitions) == ("a", 0)


@virtual_time
async def test_a_lease_that_another_holds_is_lost_at_once() -> None:
    shelf = Shelf()
    election = await leader(shelf)
    assert shelf.record is not None
    shelf.put(replace(shelf.record, holder="thief"))
    assert await loses(election) == "The lease is lost: thief holds it."
    assert not election.is_leader


@virtual_time
async def test_a_lease_that_was_deleted_is_lost_and_no_follower_hurries() -> None:
    shelf = Shelf()
    election = await leader(shelf)
    follower = candidate(shelf, "b")
    campaign = asyncio.create_task(follower.campaign())
    await asyncio.sleep(1)
    shelf.record = None
    assert await loses(election) == "The lease is lost: it was deleted."
    assert not follower.is_leader
    waited = await seconds(campaign)
    assert waited == pytest.approx(TERMS.duration - TERMS.retry - 1)


@virtual_time
async def test_who_slept_too_long_may_write_only_after_a_look_at_the_lease() -> None:
    """The clock of the election jumps, as it does for a process that was stopped; nothing else has happened."""
    shelf, asleep = Shelf(), 0.0
    election = Election(shelf.door(), "a", TERMS, clock=lambda: now() + asleep)
    await election.campaign()
    asleep = 10.5
    assert not election.is_leader
    async with keeping(election):
        await asyncio.sleep(TERMS.retry - 0.1)
        assert not election.is_leader
        await asyncio.sleep(0.2)
        assert election.time_left() == pytest.approx(TERMS.deadline - 0.1)


@virtual_time
async def test_a_renewal_that_was_answered_too_late_is_none() -> None:
    """It was taken, the process slept, and another took the Lease before the answer was read."""
    shelf, asleep = Shelf(), 0.0
    election = Election(shelf.door(), "a", TERMS, clock=lambda: now() + asleep)
    await election.campaign()
    shelf.slowness = 1
    losing = asyncio.create_task(loses(election))
    await asyncio.sleep(TERMS.retry + 0.5)
    asleep = 60
    assert shelf.record is not None
    shelf.put(replace(shelf.record, holder="b"))
    while not losing.done():
        assert not election.is_leader
        await asyncio.sleep(0.01)
    assert await losing == "The lease is lost: b holds it."


@virtual_time
async def test_what_others_write_into_the_object_is_no_sign_of_life() -> None:
    shelf = Shelf()
    await leader(shelf)
    campaign = asyncio.create_task(candidate(shelf, "b").campaign())
    for _ in range(14):
        await asyncio.sleep(1)
        assert shelf.record is not None
        shelf.put(shelf.record)  # as `kubectl annotate` does
    assert await seconds(campaign) <= 1 + TERMS.retry


@virtual_time
async def test_every_change_of_leadership_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    shelf = Shelf()
    first = await leader(shelf)
    async with keeping(first):
        campaign = asyncio.create_task(candidate(shelf, "b").campaign())
        await asyncio.sleep(60)
    await first.resign()
    await campaign
    said = [record.getMessage() for record in caplog.records]
    assert said == ["leading as a", "a leads", "the lease is given back", "nobody leads", "leading as b"]


@virtual_time
async def test_trouble_with_the_lease_is_told_and_outlived(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    shelf.fail = Blocked("Forbidden", "may not get leases")
    campaign = asyncio.create_task(candidate(shelf, "a").campaign())
    await asyncio.sleep(600)
    shelf.fail = None
    assert await seconds(campaign) <= TERMS.retry
    assert "the lease cannot be read or taken: may not get leases" in caplog.text


@virtual_time
async def test_a_fault_in_keeping_it_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever lived on would never write again, and look well."""
    shelf, stop = Shelf(), asyncio.Event()
    leadership = Leadership(candidate(shelf, "a"))
    assert await leadership.gain(stop)
    shelf.fail = KeyError("metadata")
    await asyncio.wait_for(stop.wait(), 60)
    await leadership.end(release=True)
    assert leadership.lost
    assert "the lease cannot be kept" in caplog.text
