"""Where images become answers: a bounded queue, threads that decode, and batches that form by themselves.

Nothing here computes on the event loop. An image is decoded by one of a few threads, which hand it on to
those that run the model, each a batch at a time. While they are busy, others arrive, and what waits when one
of them is free is its next batch, as far as `tunesmith_predictor.batching` finds that worth it. So a lone
request never waits for company. The loop hears of an image twice, when it comes and when it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from tunesmith_package.image_formats import SERVING_FORMATS
from tunesmith_package.inference import Outputs, softmax
from tunesmith_package.preprocess import Decoded, Float32Array, Preprocess, decode
from tunesmith_package.properties import input_properties
from tunesmith_predictor.batching import BatchSize
from tunesmith_predictor.refusals import BadRequest, Busy, TooLarge

T = TypeVar("T")

STEP_BACK = 10
"""How much nicer threads that compute are than the one that answers."""


INSPECTED_A_SECOND, INSPECTED_AT_ONCE = 50.0, 100.0
"""Images whose properties are measured, in the long run and in a burst: a sample is enough under load."""


class Allowance:
    """So many a second, and so many at once after a pause; safe to use from many threads."""

    def __init__(self, a_second: float, at_once: float) -> None:
        """Begin with all that may be taken at once."""
        self._a_second, self._at_once = a_second, at_once
        self._left, self._seen = at_once, time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one, if there is one."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._at_once, self._left + self._a_second * (now - self._seen))
            self._seen = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


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
        properties: float32 [P], where the engine inspects images, one was decoded, and not too many were just
            before; see `tunesmith_package.properties`.
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
        threads: that decode.
        inferences: at the same time, each of a batch of its own.
        waiting: images at once, from their arrival to their answer; more are refused.
        batch: images in a batch at most.
        budget_seconds: a batch should not take longer than this, once it holds more than one image.
    """

    threads: int
    inferences: int = 1
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
class _Asked:
    question: Question
    outcome: asyncio.Future[Answer]
    prepared: _Prepared | None = None


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
        self._inspections = Allowance(INSPECTED_A_SECOND, INSPECTED_AT_ONCE)
        self._sizes = BatchSize(limits.batch, limits.budget_seconds)
        self._decoders = ThreadPoolExecutor(limits.threads, "decode", step_back)
        self._infer = [
            threading.Thread(target=self._run_batches, name=f"infer_{number}")
            for number in range(limits.inferences)
        ]
        self._pending: deque[_Asked] = deque()
        self._changed = threading.Condition()  # of what is pending, of sizes, and of the end
        self._ending = False
        # A decoded image is ten times its encoding, so only those that run and those that are next are.
        self._decoded = asyncio.Semaphore(2 * max(limits.batch, limits.inferences))
        self._loop: asyncio.AbstractEventLoop | None = None
        self.in_flight = 0

    def start(self) -> None:
        """Begin to take batches, for the running loop."""
        self._loop = asyncio.get_running_loop()
        for one in self._infer:
            one.start()

    async def stop(self) -> None:
        """End the threads, after the batch that runs; whatever still waits is cancelled."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            self._ending = True
            left, self._pending = self._pending, deque()
            self._changed.notify_all()
        for asked in left:
            asked.outcome.cancel()
        for thread in self._infer:
            if thread.is_alive():
                await asyncio.to_thread(thread.join)

    def reserve(self, images: int) -> None:
        """Make sure that there is room for so many more images.

        Raises:
            Busy: there is not.
            TooLarge: there never is.
        """
        if images > self._limits.waiting:
            raise TooLarge(f"The request holds {images} images; send at most {self._limits.waiting} at once.")
        if self.in_flight + images > self._limits.waiting:
            per_image = self._sizes.seconds_per_image or 0.1
            raise Busy(max(1, round(self.in_flight * per_image / self._limits.inferences)))

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
                asked = _Asked(question, asyncio.get_running_loop().create_future())
                if isinstance(question.image, bytes):
                    self._decoders.submit(self._decode, asked, question.image)
                else:
                    self._hand_on(asked, _Prepared(question.image))
                return await asked.outcome
        finally:
            self.in_flight -= 1

    async def compute(self, work: Callable[[], T]) -> T:
        """Run something else that computes, in a thread that decodes."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    def _decode(self, asked: _Asked, data: bytes) -> None:
        """Runs in a thread that decodes."""
        if asked.outcome.done():  # nobody awaits it any more
            return
        try:
            self._hand_on(asked, self._prepare(data))
        except Exception as error:  # told to whoever asked
            self._tell(partial(_set_exception, [asked], error))

    def _prepare(self, data: bytes) -> _Prepared:
        started = time.perf_counter()
        decoded = decode(data, self._model.preprocess, formats=SERVING_FORMATS)
        if "animated" in decoded.observations:
            raise BadRequest("The image is animated, and a model looks at one. Send the frame that is meant.")
        tensor = self._model.preprocess.normalise(decoded.pixels[np.newaxis])[0]
        self._measurements.decoded(time.perf_counter() - started)
        properties = None
        if self._inspect and self._inspections.take():
            properties = input_properties(decoded.pixels, decoded.width * decoded.height)
        return _Prepared(tensor, decoded, properties, hash(data))

    def _hand_on(self, asked: _Asked, prepared: _Prepared) -> None:
        asked.prepared = prepared
        with self._changed:
            self._pending.append(asked)
            self._changed.notify()

    def _run_batches(self) -> None:
        """Runs in a thread of the model, until the end."""
        step_back()
        while batch := self._next_batch():
            try:
                answers = self._run(batch)
            except Exception as error:  # told to everybody who waits for it; the next batch may do better
                self._tell(partial(_set_exception, batch, error))
            else:
                self._tell(partial(_set_answers, batch, answers))

    def _next_batch(self) -> list[_Asked]:
        """What waits, oldest first, without those that nobody awaits any more; nothing at the end."""
        with self._changed:
            while not self._ending:
                batch: list[_Asked] = []
                most = self._sizes.next(len(self._pending)) if self._pending else 0
                while self._pending and len(batch) < most:
                    one = self._pending.popleft()
                    if not one.outcome.done():
                        batch.append(one)
                if batch:
                    return batch
                if not self._pending:
                    self._changed.wait()
            return []

    def _run(self, batch: Sequence[_Asked]) -> list[Answer]:
        started = time.perf_counter()
        ready = [one.prepared for one in batch if one.prepared is not None]
        outputs = self._model.run(
            np.stack([one.tensor for one in ready]),
            feature_map=any(one.question.feature_map for one in batch),
        )
        seconds = time.perf_counter() - started
        with self._changed:
            self._sizes.took(len(batch), seconds)
        self._measurements.ran(len(batch), seconds)
        probabilities, maps = softmax(outputs.logits), outputs.feature_map
        return [
            Answer(
                probabilities[row],
                outputs.embedding[row],
                one.tensor,
                one.decoded,
                maps[row] if maps is not None and asked.question.feature_map else None,
                one.properties,
                one.key,
            )
            for row, (asked, one) in enumerate(zip(batch, ready, strict=True))
        ]

    def _tell(self, what: Callable[[], None]) -> None:
        """Have the loop do something; when it has ended there is nobody to tell."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(what)


def _set_answers(batch: Sequence[_Asked], answers: Sequence[Answer]) -> None:
    for one, answer in zip(batch, answers, strict=True):
        if not one.outcome.done():
            one.outcome.set_result(answer)


def _set_exception(batch: Sequence[_Asked], error: Exception) -> None:
    for one in batch:
        if not one.outcome.done():
            one.outcome.set_exception(error)
