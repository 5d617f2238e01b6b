"""The queue's promises: never twice at once, nothing lost, the earliest wish wins, back-off that grows."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtualtime import virtual_time
from vllm_operator.workqueue import Backoff, QueueClosed, WorkQueue


def now() -> float:
    return asyncio.get_running_loop().time()


async def take(queue: WorkQueue[str]) -> str:
    key = await queue.get()
    queue.done(key)
    return key


@virtual_time
async def test_keys_come_in_order_and_once() -> None:
    queue = WorkQueue[str]()
    for key in ("a", "b", "a", "c", "b"):
        queue.add(key)
    assert len(queue) == 3
    assert [await take(queue) for _ in range(3)] == ["a", "b", "c"]
    assert len(queue) == 0


@virtual_time
async def test_adds_while_busy_mean_one_more_run() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    key = await queue.get()
    for _ in range(5):
        queue.add("a")
    assert len(queue) == 0, "a busy key must not be handed out"
    queue.done(key)
    assert await take(queue) == "a"
    assert len(queue) == 0


@virtual_time
async def test_get_waits_for_a_key() -> None:
    queue = WorkQueue[str]()
    getting = asyncio.create_task(queue.get())
    await asyncio.sleep(5)
    assert not getting.done()
    queue.add("a")
    assert await getting == "a"


@virtual_time
async def test_a_cancelled_get_loses_nothing() -> None:
    queue = WorkQueue[str]()
    getting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    getting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await getting
    assert await asyncio.wait_for(take(queue), 1) == "a"


@virtual_time
async def test_the_earliest_delay_wins() -> None:
    queue, start = WorkQueue[str](), now()
    queue.add_after("a", 30)
    queue.add_after("a", 10)
    queue.add_after("a", 60)
    await take(queue)
    assert now() - start == pytest.approx(10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 120)


@virtual_time
async def test_a_run_fulfils_a_pending_delay() -> None:
    queue = WorkQueue[str]()
    queue.add_after("a", 30)
    queue.add("a")
    await take(queue)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 120)


@virtual_time
async def test_a_delay_asked_for_while_busy_is_kept() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    key, start = await queue.get(), now()
    queue.add_after("a", 7)
    queue.done(key)
    assert await take(queue) == "a"
    assert now() - start == pytest.approx(7)


@virtual_time
async def test_retry_backs_off_until_forgotten() -> None:
    queue = WorkQueue[str](jitter=lambda: 0.0)
    delays = []
    for _ in range(12):
        delays.append(queue.retry("a"))
        await take(queue)
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert queue.failures("a") == 12
    queue.forget("a")
    assert queue.failures("a") == 0
    assert queue.retry("a") == 0.5


@virtual_time
async def test_retry_with_another_back_off_and_a_floor() -> None:
    queue = WorkQueue[str](jitter=lambda: 0.0)
    assert queue.retry("a", Backoff(60, 300)) == 60
    await take(queue)
    assert queue.retry("a", Backoff(60, 300)) == 120
    await take(queue)
    start = now()
    assert queue.retry("a", at_least=17) == 17
    await take(queue)
    assert now() - start == pytest.approx(17)


@virtual_time
async def test_attempts_before_their_time_do_not_lengthen_the_back_off() -> None:
    queue = WorkQueue[str](jitter=lambda: 0.0)
    start, blocked = now(), Backoff(60, 300)
    assert queue.retry("a", blocked) == 60
    for _ in range(5):
        await asyncio.sleep(10)
        queue.add("a")
        await take(queue)
        assert queue.retry("a", blocked) == pytest.approx(60 - (now() - start))
    assert queue.retry("a") == 0.5, "another kind of failure is tried again at its own pace"
    await take(queue)
    assert queue.failures("a") == 1
    assert queue.retry("a", blocked) == 120


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999])
def test_jitter_cuts_at_most_half(fraction: float) -> None:
    delays = [Backoff().delay(failures, fraction) for failures in range(1, 2000)]
    assert delays[0] == pytest.approx(0.5 * (1 - fraction / 2))
    assert max(delays) <= 300
    assert delays == sorted(delays)


@virtual_time
async def test_keys_back_off_apart() -> None:
    queue = WorkQueue[str](jitter=lambda: 0.0)
    for _ in range(5):
        queue.retry("a")
        await take(queue)
    assert queue.retry("b") == 0.5


@virtual_time
async def test_close_frees_all_who_wait_and_refuses_all_who_come() -> None:
    queue = WorkQueue[str]()
    getting = [asyncio.create_task(queue.get()) for _ in range(4)]
    await asyncio.sleep(0)
    queue.add_after("later", 5)
    queue.close()
    assert [type(result) for result in await asyncio.gather(*getting, return_exceptions=True)] == [QueueClosed] * 4
    queue.add("a")
    queue.add_after("b", 1)
    await asyncio.sleep(10)
    with pytest.raises(QueueClosed):
        await queue.get()


@virtual_time
async def test_close_leaves_running_keys_to_finish() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    queue.add("b")
    key = await queue.get()
    queue.add("a")
    queue.close()
    queue.done(key)
    with pytest.raises(QueueClosed):
        await queue.get()


@virtual_time
async def test_ages() -> None:
    queue = WorkQueue[str]()
    assert (queue.oldest_age, queue.longest_run) == (0, 0)
    queue.add("a")
    await asyncio.sleep(3)
    queue.add("b")
    assert queue.oldest_age == pytest.approx(3)
    key = await queue.get()
    await asyncio.sleep(2)
    assert queue.oldest_age == pytest.approx(2)
    assert queue.longest_run == pytest.approx(2)
    queue.done(key)
    assert queue.longest_run == 0


async def _work(queue: WorkQueue[int], seen: dict[int, int], state: dict[int, int], busy: Counter[int]) -> None:
    """A worker that notes, after a while, the state it saw when it began."""
    while True:
        try:
            key = await queue.get()
        except QueueClosed:
            return
        busy[key] += 1
        assert busy[key] == 1, "a key was handed out twice at once"
        found = state.get(key, 0)
        await asyncio.sleep(0.3)
        seen[key] = found
        busy[key] -= 1
        queue.done(key)


def _actions() -> st.SearchStrategy[list[tuple[str, int, float]]]:
    action = st.tuples(st.sampled_from(["add", "add_after", "retry", "sleep"]), st.integers(0, 3), st.floats(0, 2))
    return st.lists(action, max_size=60)


@given(_actions(), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
@virtual_time
async def test_the_last_change_is_always_seen(actions: list[tuple[str, int, float]], workers: int) -> None:
    queue = WorkQueue[int]()
    state: dict[int, int] = {}
    seen: dict[int, int] = {}
    busy: Counter[int] = Counter()
    tasks = [asyncio.create_task(_work(queue, seen, state, busy)) for _ in range(workers)]
    do: dict[str, Callable[[int, float], object]] = {
        "add": lambda key, _: queue.add(key),
        "add_after": queue.add_after,
        "retry": lambda key, _: queue.retry(key),
    }
    for version, (action, key, seconds) in enumerate(actions, start=1):
        if action == "sleep":
            await asyncio.sleep(seconds)
        else:
            state[key] = version
            do[action](key, seconds)
    await asyncio.sleep(1000)
    queue.close()
    await asyncio.gather(*tasks)
    assert seen == state


@virtual_time
async def test_where_every_key_stands() -> None:
    queue = WorkQueue[str](jitter=lambda: 0.0)
    for key in ("a", "b", "c"):
        queue.add(key)
    assert await queue.get() == "a"
    assert await queue.get() == "b"
    queue.retry("b")
    queue.done("b")
    queue.add_after("a", 60)
    await asyncio.sleep(0.1)
    found = [(one.key, one.state, round(one.seconds, 3), one.failures) for one in queue.standing()]
    assert found == [
        ("a", "running", 0.1, 0),
        ("c", "waiting", 0.1, 0),
        ("b", "delayed", 0.4, 1),
        ("a", "delayed", 59.9, 0),
    ]
    assert queue.running == 1


@virtual_time
async def test_what_comes_in_bursts_is_hurried_a_few_times_and_then_gathered() -> None:
    queue, taken = WorkQueue[str](), list[float]()
    for _ in range(12):
        queue.add_soon("a")
        await take(queue)
        taken.append(now())
    assert [round(at - taken[0], 3) for at in taken] == [*[0] * 10, 0.5, 1.0]
    await asyncio.sleep(10)
    start = now()
    queue.add_soon("a")
    await take(queue)
    assert now() == start, "a while later it may be hurried again"


@virtual_time
async def test_nothing_is_hurried_while_others_wait_or_are_worked_on() -> None:
    queue, start = WorkQueue[str](), now()
    queue.add("b")
    queue.add_soon("a")
    busy = await queue.get()
    queue.add_soon("c")
    assert (busy, len(queue)) == ("b", 0)
    queue.done(busy)
    assert [await take(queue), await take(queue)] == ["a", "c"]
    assert now() - start == 0.5


@virtual_time
async def test_what_never_rests_saves_up_nothing_while_others_are_worked_on() -> None:
    """Ten times a second something happens to one key, while another one is worked on most of the time."""
    queue, runs, seconds = WorkQueue[str](), Counter[str](), 60

    async def work() -> None:
        while True:
            key = await queue.get()
            runs[key] += 1
            await asyncio.sleep(0.08 if key == "a" else 0.3)
            queue.done(key)

    async def edit() -> None:
        while True:
            queue.add("b")
            await asyncio.sleep(0.35)

    others = [asyncio.create_task(one) for one in (work(), work(), edit())]
    for _ in range(10 * seconds):
        queue.add_soon("a")
        await asyncio.sleep(0.1)
    for task in others:
        task.cancel()
    assert runs["b"] > seconds
    assert runs["a"] <= 10 + 2 * seconds


@virtual_time
async def test_what_its_own_run_brings_about_is_looked_at_right_after() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    key = await queue.get()
    queue.add_soon(key)
    queue.done(key)
    assert len(queue) == 1
