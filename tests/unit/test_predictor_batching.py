"""The size of a batch: as small as is worth it, whatever the model and the machine are like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_predictor.batching import BatchSize


def cpu(images: int) -> float:
    return 0.004 * images


def gpu(images: int) -> float:
    return 0.02 + 0.0001 * images


def sizes(
    chooser: BatchSize, cost: Callable[[int], float], *, batches: int = 200, waiting: int = 64
) -> list[int]:
    """What is chosen when batches take what ``cost`` says, with as many images waiting all the time."""
    chosen = []
    for _ in range(batches):
        images = chooser.next(waiting)
        chooser.took(images, cost(images))
        chosen.append(images)
    return chosen


@pytest.mark.parametrize(
    ("cost", "budget", "size"),
    [
        pytest.param(cpu, 1.0, 1, id="time grows with the batch"),
        pytest.param(gpu, 1.0, 32, id="time hardly grows"),
        pytest.param(lambda images: max(0.02, 0.005 * images), 1.0, 4, id="free up to four images"),
        pytest.param(lambda images: 0.02 + 0.005 * images, 0.05, 4, id="eight would exceed the budget"),
        pytest.param(lambda images: 0.2, 0.05, 1, id="one exceeds it already"),
    ],
)
def test_the_size_is_the_smallest_that_is_worth_it(
    cost: Callable[[int], float], budget: float, size: int
) -> None:
    late = sizes(BatchSize(32, budget), cost)[20:]
    assert max(set(late), key=late.count) == size
    assert late.count(size) > 0.85 * len(late)


def test_a_machine_that_changes_is_noticed_in_both_directions() -> None:
    chooser = BatchSize(32, 1.0)
    assert sizes(chooser, cpu)[-2] == 1
    assert sizes(chooser, gpu, batches=3_000)[-2] == 32
    assert sizes(chooser, cpu, batches=3_000)[-2] == 1


def test_seconds_per_image_are_those_of_the_size_in_use() -> None:
    chooser = BatchSize(32, 1.0)
    assert chooser.seconds_per_image is None
    sizes(chooser, gpu)
    assert chooser.seconds_per_image == pytest.approx(gpu(32) / 32)


@given(
    st.integers(1, 64),
    st.floats(1e-4, 1.0),
    st.lists(st.tuples(st.integers(1, 300), st.floats(1e-5, 2.0)), max_size=80),
)
def test_a_batch_holds_at_least_one_and_never_more_than_wait_or_are_allowed(
    most: int, budget: float, history: list[tuple[int, float]]
) -> None:
    chooser = BatchSize(most, budget)
    for waiting, seconds in history:
        images = chooser.next(waiting)
        assert 1 <= images <= min(waiting, most)
        chooser.took(images, seconds)


def test_a_size_that_is_not_worth_it_is_tried_for_fewer_than_one_request_in_a_hundred() -> None:
    late = sizes(BatchSize(4, 1.0), cpu, batches=6_000)[1_000:]
    assert sum(size for size in late if size > 1) < 0.01 * sum(late)
    assert any(size > 1 for size in late)  # it is tried all the same
