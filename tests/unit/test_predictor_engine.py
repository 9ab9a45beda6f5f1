"""The engine: batches form by themselves, the queue is bounded, and nobody is computed for who has gone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image
from tests.testbed.tiny_package import PREPROCESS, encoded, picture

from tunesmith_package.inference import Outputs
from tunesmith_package.preprocess import Float32Array, ImageInvalid
from tunesmith_predictor.engine import Allowance, Engine, Limits, Measurements, Question
from tunesmith_predictor.refusals import BadRequest, Busy, TooLarge

T = TypeVar("T")
SIDE = PREPROCESS.image_size


class Model:
    """Says the mean of each image, and can be held up."""

    def __init__(self) -> None:
        self.preprocess = PREPROCESS
        self.batches: list[int] = []
        self.maps: list[bool] = []
        self.go = threading.Event()
        self.go.set()
        self.fail = False

    def run(self, tensor: Float32Array, *, feature_map: bool = True) -> Outputs:
        self.batches.append(len(tensor))
        self.maps.append(feature_map)
        assert self.go.wait(10)
        if self.fail:
            raise RuntimeError("broken")
        mean = tensor.mean(axis=(1, 2, 3))
        logits = np.stack([mean, -mean], axis=1).astype(np.float32)
        maps = np.repeat(mean, 4).reshape(-1, 1, 2, 2).astype(np.float32)
        return Outputs(logits, mean[:, np.newaxis].astype(np.float32), maps if feature_map else None)


def tensor(value: float) -> Float32Array:
    return np.full((3, SIDE, SIDE), value, np.float32)


def run_with(model: Model, limits: Limits, work: Callable[[Engine], Awaitable[T]]) -> T:
    async def whole() -> T:
        engine = Engine(model, limits)
        engine.start()
        try:
            return await work(engine)
        finally:
            await engine.stop()

    return asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in threads
            await asyncio.sleep(0.001)


def test_answers_belong_to_their_questions_however_they_are_batched() -> None:
    model = Model()

    async def ask(engine: Engine) -> list[float]:
        answers = await asyncio.gather(*(engine.answer(Question(tensor(k / 10))) for k in range(20)))
        return [float(one.embedding[0]) for one in answers]

    found = run_with(model, Limits(2, budget_seconds=10.0), ask)

    assert found == pytest.approx([k / 10 for k in range(20)], abs=1e-6)
    assert sum(model.batches) == 20
    assert max(model.batches) > 1


def test_what_arrives_while_a_batch_runs_forms_larger_ones_where_that_is_worth_it() -> None:
    class Steady(Model):
        def run(self, tensor: Float32Array, *, feature_map: bool = True) -> Outputs:
            time.sleep(0.02)  # however many there are, as on a GPU
            return super().run(tensor, feature_map=feature_map)

    model = Steady()

    async def ask(engine: Engine) -> None:
        await asyncio.gather(*(engine.answer(Question(tensor(k / 100))) for k in range(64)))

    run_with(model, Limits(2, batch=16, budget_seconds=1.0), ask)

    assert model.batches[:5] == [1, 2, 4, 8, 16]
    assert sum(model.batches) == 64


@pytest.mark.parametrize("inferences", [2, 4])
def test_as_many_batches_run_at_the_same_time_as_are_allowed(inferences: int) -> None:
    together = threading.Barrier(inferences)

    class Meeting(Model):
        def run(self, tensor: Float32Array, *, feature_map: bool = True) -> Outputs:
            together.wait(10)  # breaks unless another one comes
            return super().run(tensor, feature_map=feature_map)

    model = Meeting()

    async def ask(engine: Engine) -> list[float]:
        answers = await asyncio.gather(*(engine.answer(Question(tensor(k / 10))) for k in range(8)))
        return [float(one.embedding[0]) for one in answers]

    found = run_with(model, Limits(2, inferences=inferences, batch=1), ask)

    assert found == pytest.approx([k / 10 for k in range(8)], abs=1e-6)
    assert model.batches == [1] * 8


def test_images_above_the_limit_are_refused_and_those_before_are_answered() -> None:
    model = Model()
    model.go.clear()

    async def ask(engine: Engine) -> tuple[int, Busy]:
        waiting = [asyncio.ensure_future(engine.answer(Question(tensor(0)))) for _ in range(3)]
        await until(lambda: engine.in_flight == 3)
        with pytest.raises(Busy) as caught:
            await engine.answer(Question(tensor(0)))
        model.go.set()
        answered = await asyncio.gather(*waiting)
        assert engine.in_flight == 0
        return len(answered), caught.value

    answered, refused = run_with(model, Limits(1, waiting=3), ask)

    assert answered == 3
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_more_images_than_ever_wait_are_refused_for_good() -> None:
    async def ask(engine: Engine) -> int:
        with pytest.raises(TooLarge) as caught:
            engine.reserve(4)
        return caught.value.status

    assert run_with(Model(), Limits(1, waiting=3), ask) == 413


def test_no_more_images_are_decoded_than_the_next_batches_hold() -> None:
    model = Model()
    model.go.clear()
    decoded: list[float] = []

    async def ask() -> int:
        engine = Engine(model, Limits(2, batch=2), Measurements(decoded=decoded.append))
        engine.start()
        waiting = [asyncio.ensure_future(engine.answer(Question(picture("red")))) for _ in range(20)]
        await until(lambda: len(decoded) == 4)
        await asyncio.sleep(0.1)
        ahead = len(decoded)
        model.go.set()
        await asyncio.gather(*waiting)
        await engine.stop()
        return ahead

    assert asyncio.run(ask()) == 4
    assert len(decoded) == 20


def test_a_question_whose_asker_has_gone_is_not_computed() -> None:
    model = Model()
    model.go.clear()

    async def ask(engine: Engine) -> None:
        first = asyncio.ensure_future(engine.answer(Question(tensor(0))))
        await until(lambda: len(model.batches) == 1)
        gone = asyncio.ensure_future(engine.answer(Question(tensor(1))))
        await until(lambda: engine.in_flight == 2)
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        model.go.set()
        await first
        await engine.answer(Question(tensor(2)))
        assert engine.in_flight == 0

    run_with(model, Limits(1), ask)

    assert model.batches == [1, 1]


def test_a_failing_batch_fails_its_own_questions_and_the_next_one_is_answered() -> None:
    model = Model()

    async def ask(engine: Engine) -> float:
        model.fail = True
        with pytest.raises(RuntimeError, match="broken"):
            await engine.answer(Question(tensor(0)))
        model.fail = False
        return float((await engine.answer(Question(tensor(1)))).probabilities[0])

    assert run_with(model, Limits(1), ask) > 0.5


def test_only_questions_that_want_a_feature_map_get_one() -> None:
    model = Model()

    async def ask(engine: Engine) -> list[bool]:
        plain = await engine.answer(Question(tensor(0)))
        explained = await engine.answer(Question(tensor(0), feature_map=True))
        return [plain.feature_map is None, explained.feature_map is None]

    assert run_with(model, Limits(1), ask) == [True, False]
    assert model.maps == [False, True]


def test_encoded_images_are_decoded_off_the_loop_and_measured() -> None:
    threads: list[str] = []
    ran: list[int] = []
    measurements = Measurements(
        decoded=lambda seconds: threads.append(threading.current_thread().name),
        ran=lambda images, seconds: ran.append(images),
    )

    async def ask() -> tuple[int, ...]:
        engine = Engine(Model(), Limits(1), measurements)
        engine.start()
        answer = await engine.answer(Question(picture("red")))
        await engine.stop()
        assert answer.decoded is not None
        return answer.decoded.pixels.shape

    assert asyncio.run(ask()) == (SIDE, SIDE, 3)
    assert [name.startswith("decode") for name in threads] == [True]
    assert ran == [1]


def test_under_load_only_some_images_are_inspected_and_after_a_pause_all_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    allowance = Allowance(50, 20)
    assert [allowance.take() for _ in range(22)] == [True] * 20 + [False] * 2
    now += 0.11
    assert sum(allowance.take() for _ in range(20)) == 5
    now += 60
    assert sum(allowance.take() for _ in range(100)) == 20


def test_what_is_no_image_and_what_is_several_is_refused() -> None:
    moving = encoded(
        Image.new("RGB", (8, 8)), save_all=True, append_images=[Image.new("RGB", (8, 8), "red")], duration=50
    )

    async def ask(engine: Engine) -> None:
        with pytest.raises(ImageInvalid):
            await engine.answer(Question(b"hello"))
        with pytest.raises(BadRequest, match="animated"):
            await engine.answer(Question(moving))
        assert engine.in_flight == 0

    run_with(Model(), Limits(1), ask)
