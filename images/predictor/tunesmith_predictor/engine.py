"""Where images become answers: a bounded queue, threads that decode, and batches that form by themselves.

Nothing here computes on the event loop. An image is decoded by one of a few threads and then waits for the
model, which is one thread that runs one batch at a time on all processors. While a batch runs, others
arrive; what waits when it ends is the next one. So a lone request never waits for company, and under load
batches grow until they would take longer than the latency budget.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from tunesmith_package.image_formats import SERVING_FORMATS
from tunesmith_package.inference import Outputs, softmax
from tunesmith_package.preprocess import Decoded, Float32Array, Preprocess, decode
from tunesmith_package.properties import input_properties
from tunesmith_predictor.refusals import BadRequest, Busy, TooLarge

T = TypeVar("T")

STEP_BACK = 10
"""How much nicer threads that compute are than the one that answers."""
SMOOTHING = 0.2
"""Weight of the newest batch in the running mean of the seconds that an image takes."""


def step_back() -> None:
    """Let the event loop go before this thread, and before those that it starts.

    On Linux priority belongs to a thread. Without this, health checks wait behind images for a processor.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            own = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + STEP_BACK)


class Runner(Protocol):
    """A model as the engine needs it; `tunesmith_package.inference.Predictor` is one."""

    preprocess: Preprocess

    def run(self, tensor: Float32Array, *, feature_map: bool = True) -> Outputs:
        """Normalised images float32 [n, 3, S, S] to what the model says, with its feature map or without."""
        ...


@dataclass(frozen=True)
class Question:
    """One image to answer.

    Attributes:
        image: an encoding, or a normalised tensor float32 [3, S, S].
        feature_map: whether the answer needs the feature map.
    """

    image: bytes | Float32Array
    feature_map: bool = False


@dataclass(frozen=True)
class Answer:
    """What the model says about one image.

    Attributes:
        probabilities: calibrated, float32 [K].
        embedding: float32 [D].
        tensor: the normalised image float32 [3, S, S], for explanations.
        decoded: the image that was decoded, or None for a tensor.
        feature_map: float32 [D, h, w], where it was asked for and the model has one.
        properties: float32 [P], where the engine inspects images and one was decoded; see
            `tunesmith_package.properties`.
        key: the same for the same bytes; None for a tensor.
    """

    probabilities: Float32Array
    embedding: Float32Array
    tensor: Float32Array
    decoded: Decoded | None
    feature_map: Float32Array | None = None
    properties: Float32Array | None = None
    key: int | None = None


@dataclass(frozen=True)
class Limits:
    """What the engine allows itself.

    Attributes:
        threads: that decode, and that one inference uses.
        waiting: images at once, from their arrival to their answer; more are refused.
        batch: images in a batch at most.
        budget_seconds: a batch should not take longer than this, once it holds more than one image.
    """

    threads: int
    waiting: int = 256
    batch: int = 32
    budget_seconds: float = 0.05


@dataclass
class Measurements:
    """Where the engine tells what it does; each is called with seconds or a number of images."""

    decoded: Callable[[float], None] = lambda seconds: None
    ran: Callable[[int, float], None] = lambda images, seconds: None


@dataclass(frozen=True)
class _Prepared:
    tensor: Float32Array
    decoded: Decoded | None = None
    properties: Float32Array | None = None
    key: int | None = None


@dataclass
class _Waiting:
    tensor: Float32Array
    feature_map: bool
    outcome: asyncio.Future[tuple[Float32Array, Float32Array, Float32Array | None]]


class Engine:
    """Answers questions; made and used on one event loop.

    Attributes:
        in_flight: images that have arrived and are not answered.
    """

    def __init__(
        self,
        model: Runner,
        limits: Limits,
        measurements: Measurements | None = None,
        *,
        inspect: bool = False,
    ) -> None:
        """Nothing runs before `start`; with ``inspect`` each image's properties are measured."""
        self._model, self._limits, self._inspect = model, limits, inspect
        self._measurements = measurements or Measurements()
        self._decoders = ThreadPoolExecutor(limits.threads, "decode", step_back)
        self._runner = ThreadPoolExecutor(1, "infer", step_back)
        self._pending: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        # A decoded image is ten times its encoding, so only the next batches are decoded ahead.
        self._decoded = asyncio.Semaphore(2 * limits.batch)
        self._task: asyncio.Task[None] | None = None
        self._seconds_per_image: float | None = None
        self.in_flight = 0

    def start(self) -> None:
        """Begin to take batches, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._take_batches())

    async def stop(self) -> None:
        """End the threads; whatever still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._pending:
            self._pending.popleft().outcome.cancel()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._runner.shutdown(wait=False, cancel_futures=True)

    def reserve(self, images: int) -> None:
        """Make sure that there is room for so many more images.

        Raises:
            Busy: there is not.
            TooLarge: there never is.
        """
        if images > self._limits.waiting:
            raise TooLarge(f"The request holds {images} images; send at most {self._limits.waiting} at once.")
        if self.in_flight + images > self._limits.waiting:
            per_image = self._seconds_per_image or 0.1
            raise Busy(max(1, round(self.in_flight * per_image)))

    async def answer(self, question: Question) -> Answer:
        """Answer one image. Whoever awaits this and is cancelled is not computed for, where that is possible.

        Raises:
            Busy: too many are waiting.
            ImageInvalid: the bytes are no image that can be used.
            BadRequest: they are several, of which one would have to be chosen.
        """
        self.reserve(1)
        self.in_flight += 1
        try:
            async with self._decoded:
                ready = await self._prepared(question)
                outcome = asyncio.get_running_loop().create_future()
                self._pending.append(_Waiting(ready.tensor, question.feature_map, outcome))
                self._arrived.set()
                logits, embedding, feature_map = await outcome
            return Answer(
                softmax(logits),
                embedding,
                ready.tensor,
                ready.decoded,
                feature_map,
                ready.properties,
                ready.key,
            )
        finally:
            self.in_flight -= 1

    async def compute(self, work: Callable[[], T]) -> T:
        """Run something else that computes, in a thread that decodes."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def _prepared(self, question: Question) -> _Prepared:
        if not isinstance(question.image, bytes):
            return _Prepared(question.image)
        data = question.image
        return await asyncio.get_running_loop().run_in_executor(self._decoders, self._decode, data)

    def _decode(self, data: bytes) -> _Prepared:
        started = time.perf_counter()
        decoded = decode(data, self._model.preprocess, formats=SERVING_FORMATS)
        if "animated" in decoded.observations:
            raise BadRequest("The image is animated, and a model looks at one. Send the frame that is meant.")
        tensor = self._model.preprocess.normalise(decoded.pixels[np.newaxis])[0]
        self._measurements.decoded(time.perf_counter() - started)
        properties = input_properties(decoded.pixels) if self._inspect else None
        return _Prepared(tensor, decoded, properties, hash(data))

    async def _take_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                continue
            try:
                outputs, seconds = await loop.run_in_executor(self._runner, self._run, batch)
            except Exception as error:  # told to everybody who waits for it; the next batch may do better
                for one in batch:
                    if not one.outcome.done():
                        one.outcome.set_exception(error)
                continue
            self._remember(len(batch), seconds)
            for row, one in enumerate(batch):
                if not one.outcome.done():
                    one.outcome.set_result(_row(outputs, row, feature_map=one.feature_map))

    def _next_batch(self) -> list[_Waiting]:
        """What waits, oldest first, without those that nobody awaits any more."""
        batch: list[_Waiting] = []
        most = self.most_in_a_batch()
        while self._pending and len(batch) < most:
            one = self._pending.popleft()
            if not one.outcome.done():
                batch.append(one)
        return batch

    def most_in_a_batch(self) -> int:
        """How many images fit into the latency budget, by what the last batches took."""
        if self._seconds_per_image is None:
            return 1
        return max(1, min(self._limits.batch, int(self._limits.budget_seconds / self._seconds_per_image)))

    def _run(self, batch: list[_Waiting]) -> tuple[Outputs, float]:
        started = time.perf_counter()
        tensors = np.stack([one.tensor for one in batch])
        outputs = self._model.run(tensors, feature_map=any(one.feature_map for one in batch))
        return outputs, time.perf_counter() - started

    def _remember(self, images: int, seconds: float) -> None:
        self._measurements.ran(images, seconds)
        each, before = seconds / images, self._seconds_per_image
        self._seconds_per_image = each if before is None else before + SMOOTHING * (each - before)


def _row(
    outputs: Outputs, row: int, *, feature_map: bool
) -> tuple[Float32Array, Float32Array, Float32Array | None]:
    found = outputs.feature_map[row] if feature_map and outputs.feature_map is not None else None
    return outputs.logits[row], outputs.embedding[row], found
