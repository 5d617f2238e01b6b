"""An API server that is away is left alone, and used again as soon as it answers."""

import asyncio

import pytest

from virtualtime import virtual_time
from vllm_operator.cluster.breaker import Breaker
from vllm_operator.errors import Transient


def admitted(breaker: Breaker) -> bool:
    try:
        breaker.admit("GET /api")
    except Transient:
        return False
    return True


def broken() -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        assert admitted(breaker)
        breaker.note(failed=True)
    return breaker


@virtual_time
async def test_while_it_is_away_one_request_in_four_seconds_is_sent() -> None:
    breaker, sent = broken(), 0
    for _ in range(600):  # as many resources ask, for a minute
        if admitted(breaker):
            sent += 1
            breaker.note(failed=True)
        await asyncio.sleep(0.1)
    assert 14 <= sent <= 15


@virtual_time
async def test_one_answer_is_enough() -> None:
    breaker = broken()
    await asyncio.sleep(4)
    assert admitted(breaker)
    with pytest.raises(Transient, match=r"^GET /api: not sent, because the API server has been failing$"):
        breaker.admit("GET /api")
    breaker.note(failed=False)
    assert all(admitted(breaker) for _ in range(100))


@virtual_time
async def test_it_is_away_until_the_first_answer() -> None:
    assert not Breaker().is_open
    breaker = broken()
    await asyncio.sleep(60)
    breaker.note(failed=True)
    assert breaker.is_open
    breaker.note(failed=False)
    assert not breaker.is_open


@virtual_time
async def test_a_probe_that_hangs_does_not_hold_up_the_next() -> None:
    breaker = broken()
    for _ in range(3):
        await asyncio.sleep(4)
        assert admitted(breaker)


@pytest.mark.parametrize("failures", [1, 4])
@virtual_time
async def test_what_fails_now_and_then_is_not_away(failures: int) -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(failures):
            assert admitted(breaker)
            breaker.note(failed=True)
        breaker.note(failed=False)
    assert admitted(breaker)
