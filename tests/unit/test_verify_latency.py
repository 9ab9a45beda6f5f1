import pytest

from tunesmith_trainer.verify.latency import (
    LEAST_REQUESTS,
    MOST_REQUESTS,
    WARM_UP,
    Latency,
    describe_machine,
    percentiles,
    time_requests,
)


class Clock:
    """Time that passes only when a request is answered."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def timed(clock: Clock, seconds_each: float, seconds: float) -> tuple[list[float], list[bytes]]:
    answered = []

    def predict(image: bytes) -> None:
        answered.append(image)
        clock.now += seconds_each

    times = time_requests(predict, [b"a", b"b", b"c"], clock=clock, seconds=seconds)
    return times, answered


@pytest.mark.parametrize(
    ("seconds_each", "expected"),
    [(1.0, LEAST_REQUESTS), (0.0001, MOST_REQUESTS), (0.02, 50)],
    ids=["slow models get the least number", "fast models get the largest number", "others the given time"],
)
def test_requests_are_timed_for_the_given_time_within_bounds(seconds_each: float, expected: float) -> None:
    times, answered = timed(Clock(), seconds_each, seconds=1.0)
    assert len(times) == pytest.approx(expected, abs=1)
    assert len(answered) == len(times) + WARM_UP
    assert times == pytest.approx([seconds_each * 1000] * len(times))


def test_requests_cycle_through_all_images() -> None:
    _, answered = timed(Clock(), 1.0, seconds=1.0)
    assert answered[WARM_UP:][:6] == [b"a", b"b", b"c"] * 2


def test_requests_before_the_warm_up_is_over_do_not_count() -> None:
    clock = Clock()
    slow_first = iter([5.0] * WARM_UP + [0.01] * 1_000)

    def predict(image: bytes) -> None:
        clock.now += next(slow_first)

    assert max(time_requests(predict, [b"a"], seconds=0.5, clock=clock)) == pytest.approx(10.0)


def test_requests_without_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        time_requests(len, [], seconds=1.0)


def test_percentiles_are_the_median_and_the_95th() -> None:
    assert percentiles([float(i) for i in range(101)]) == (50.0, 95.0)


def test_machine_is_described_with_processors_memory_and_runtime() -> None:
    text = describe_machine(2)
    assert "2 of its processors" in text
    assert "GiB memory" in text
    assert "ONNX Runtime" in text


def test_latency_note_says_how_it_was_measured() -> None:
    note = Latency(5.0, 9.0, 120, 1, None, None, "a machine").note
    assert note == "Measured over 120 single-image requests, decoding included, with 1 thread on a machine."
