"""The keyed queue: once per key, one worker per key, later and later after failures."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from tunesmith_operator.queue import Backoff, KeyedQueue


async def work_off(
    queue: KeyedQueue[str], handle: Callable[[str], Awaitable[float | None]], workers: int = 2
) -> None:
    """Run until nothing waits, then close."""
    running = asyncio.create_task(queue.run(handle, workers))
    async with asyncio.timeout(10):
        await asyncio.sleep(0)
        while not queue.idle:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        queue.close()
        await running


def test_key_added_many_times_before_it_is_taken_is_handled_once() -> None:
    seen: list[str] = []

    async def handle(key: str) -> None:
        seen.append(key)

    async def main() -> None:
        queue = KeyedQueue[str]()
        for key in "abcabcabc":
            queue.add(key)
        await work_off(queue, handle)

    asyncio.run(main())
    assert sorted(seen) == ["a", "b", "c"]


def test_key_with_news_while_it_is_handled_is_handled_again_afterwards_never_at_once() -> None:
    at_once: Counter[str] = Counter()
    most: Counter[str] = Counter()
    times: Counter[str] = Counter()

    async def main() -> None:
        queue = KeyedQueue[str]()

        async def handle(key: str) -> None:
            at_once[key] += 1
            most[key] = max(most[key], at_once[key])
            times[key] += 1
            if times[key] < 4:
                queue.add(key)
                queue.add(key)
            await asyncio.sleep(0.005)
            at_once[key] -= 1

        for key in "ab":
            queue.add(key)
        await work_off(queue, handle, workers=4)

    asyncio.run(main())
    assert times == {"a": 4, "b": 4}
    assert set(most.values()) == {1}


def test_failure_comes_back_until_it_succeeds_and_others_are_not_held_up() -> None:
    attempts: Counter[str] = Counter()
    failures: list[str] = []

    async def main() -> None:
        queue = KeyedQueue[str](Backoff(0.001, 0.002), on_failure=lambda key, error: failures.append(key))

        async def handle(key: str) -> None:
            attempts[key] += 1
            if key == "bad" and attempts[key] < 4:
                raise ValueError("not yet")

        for key in ("bad", "good"):
            queue.add(key)
        running = asyncio.create_task(queue.run(handle, 1))
        async with asyncio.timeout(10):
            while attempts["bad"] < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            queue.close()
            await running

    asyncio.run(main())
    assert attempts == {"bad": 4, "good": 1}
    assert failures == ["bad"] * 3


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.2), (2, 0.4), (5, 3.2), (9, 51.2), (10, 60), (500, 60)]
)
def test_backoff_doubles_up_to_its_most(failures: int, seconds: float) -> None:
    assert Backoff(0.2, 60).delay(failures, 0.0) == pytest.approx(seconds)
    assert 0.8 * seconds < Backoff(0.2, 60).delay(failures, 0.999) < seconds


def test_earlier_appointment_stands_and_a_later_one_is_moved_up() -> None:
    async def main() -> list[float]:
        handled: list[float] = []
        queue = KeyedQueue[str]()
        loop = asyncio.get_running_loop()
        begun = loop.time()

        async def handle(key: str) -> None:
            handled.append(loop.time() - begun)

        queue.add_after("a", 60)
        queue.add_after("a", 0.02)
        queue.add_after("a", 30)
        running = asyncio.create_task(queue.run(handle, 1))
        async with asyncio.timeout(10):
            while not handled:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        queue.close()
        await running
        return handled

    (moment,) = asyncio.run(main())
    assert 0.015 < moment < 5


def test_closing_lets_what_is_going_on_end_and_begins_nothing_more() -> None:
    events: list[str] = []

    async def main() -> None:
        queue = KeyedQueue[str]()

        async def handle(key: str) -> None:
            events.append(f"begin {key}")
            if key == "first":
                queue.close()
            await asyncio.sleep(0.01)
            events.append(f"end {key}")

        queue.add("first")
        queue.add("second")
        async with asyncio.timeout(10):
            await queue.run(handle, 1)

    asyncio.run(main())
    assert events == ["begin first", "end first"]
