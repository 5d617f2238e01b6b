"""The rules of the Lease, one by one, in virtual time against a store in memory."""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from leases import Shelf
from virtualtime import virtual_time
from vllm_operator.errors import Blocked, LeaseLost
from vllm_operator.lease import Election, Record, Terms

TERMS = Terms(duration=15, deadline=10, retry=2)


def candidate(shelf: Shelf, name: str, terms: Terms = TERMS) -> Election:
    return Election(shelf.door(), name, terms, clock=_now, jitter=lambda: 0.5)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def seconds(waiting: Awaitable[object]) -> float:
    """How long something takes."""
    began = _now()
    await waiting
    return _now() - began


async def leader(shelf: Shelf, name: str = "a") -> Election:
    election = candidate(shelf, name)
    await election.campaign()
    return election


async def loses(election: Election) -> str:
    with pytest.raises(LeaseLost) as caught:
        await election.keep()
    return str(caught.value)


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
    keeping = asyncio.create_task((await leader(shelf)).keep())
    campaign = asyncio.create_task(candidate(shelf, "b").campaign())
    await asyncio.sleep(3600)
    assert not campaign.done()
    assert shelf.record is not None
    assert shelf.writes == pytest.approx(1 + 3600 / TERMS.retry, abs=2)
    keeping.cancel()
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
    keeping = asyncio.create_task(election.keep())
    await asyncio.sleep(TERMS.retry + 1.5 + 0.1)
    assert election.time_left() == pytest.approx(TERMS.deadline - 1.6)
    keeping.cancel()


@pytest.mark.parametrize("failure", [Blocked("Forbidden", "no"), None])
def test_a_leader_that_cannot_renew_stops_before_another_may_start(failure: Exception | None) -> None:
    @virtual_time
    async def story() -> None:
        shelf = Shelf()
        election = await leader(shelf)
        began = _now()
        follower = asyncio.create_task(candidate(shelf, "b").campaign())
        await asyncio.sleep(0.1)
        door = election._store
        assert isinstance(door, type(shelf.door()))
        door.fail, door.hangs = failure, failure is None
        assert "could not be renewed for 10 s" in await loses(election)
        assert _now() - began == pytest.approx(TERMS.deadline)
        assert not election.is_leader
        await follower
        assert _now() - began >= TERMS.duration

    story()


@virtual_time
async def test_a_request_that_hangs_leaves_time_for_another() -> None:
    shelf = Shelf()
    election = await leader(shelf)
    shelf.hang_next = 2
    keeping = asyncio.create_task(election.keep())
    await asyncio.sleep(60)
    assert not keeping.done()
    keeping.cancel()


@virtual_time
async def test_an_answer_that_is_lost_is_no_loss() -> None:
    shelf = Shelf()
    election = candidate(shelf, "a")
    shelf.lose_next = 1
    await election.campaign()
    shelf.lose_next = 1
    keeping = asyncio.create_task(election.keep())
    await asyncio.sleep(60)
    assert not keeping.done()
    assert shelf.record is not None
    assert (shelf.record.holder, shelf.record.transitions) == ("a", 0)
    keeping.cancel()


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
async def test_who_slept_too_long_finds_his_time_run_out() -> None:
    """The clock of the election jumps, as it does for a process that was stopped; nothing else has happened."""
    shelf, asleep = Shelf(), 0.0
    election = Election(shelf.door(), "a", TERMS, clock=lambda: _now() + asleep)
    await election.campaign()
    asleep = 10.5
    assert not election.is_leader
    assert "could not be renewed" in await loses(election)
    assert shelf.writes == 1, "it must not be renewed after all"


@virtual_time
async def test_a_renewal_that_was_answered_too_late_is_none() -> None:
    shelf, asleep = Shelf(), 0.0
    election = Election(shelf.door(), "a", TERMS, clock=lambda: _now() + asleep)
    await election.campaign()
    shelf.slowness = 1
    losing = asyncio.create_task(loses(election))
    await asyncio.sleep(TERMS.retry + 0.5)
    asleep = 60
    assert "its renewal came too late" in await losing


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
    keeping = asyncio.create_task(first.keep())
    campaign = asyncio.create_task(candidate(shelf, "b").campaign())
    await asyncio.sleep(60)
    keeping.cancel()
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
