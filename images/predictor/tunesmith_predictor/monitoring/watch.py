"""Everything that is told of each answer, and what is made of it now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import orjson
from kserve.logging import logger

from tunesmith_predictor.answers import Answers
from tunesmith_predictor.metrics import Metrics
from tunesmith_predictor.monitoring.feedback import Feedback, read_entries
from tunesmith_predictor.monitoring.monitor import Monitor, Report
from tunesmith_predictor.monitoring.sampler import Sampler
from tunesmith_predictor.questions import Request
from tunesmith_predictor.refusals import BadRequest, TooLarge

T = TypeVar("T")

PERIOD_SECONDS = 30.0
"""Between two reports for Prometheus."""
MOST_FEEDBACK_BYTES = 1_000_000
"""It is read on the event loop, which more would hold up."""
FRESH_SECONDS = 1.0
"""A report that is no older is given again: who asks often does not take the processors from images."""


class Compute(Protocol):
    """Where computing does not hold up the event loop; `Engine.compute` is one."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run it and return its result."""
        ...


class Watch:
    """Metrics of all answers, and monitoring and feedback where they are on; lives on the event loop."""

    def __init__(
        self,
        labels: Sequence[str],
        metrics: Metrics,
        compute: Compute,
        *,
        monitor: Monitor | None = None,
        feedback: Feedback | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """Nothing is reported before `start`; what is None is off."""
        self._labels, self._metrics, self._compute = labels, metrics, compute
        self._monitor, self._feedback, self._sampler = monitor, feedback, sampler
        self._report: Report | None = None
        self._reported = 0.0
        self._task: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    def start(self) -> None:
        """Begin to report to Prometheus, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._report_now_and_then())

    async def stop(self) -> None:
        """Report no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._sampler is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._sampler.close)

    def answered(self, request: Request, answers: Answers) -> None:
        """Take note of the answers of a request."""
        predicted = [int(one.probabilities.argmax()) for one in answers.each]
        for one in answers.each:
            self._metrics.predicted(one.probabilities)
            if self._monitor is not None:
                self._monitor.add(one)
        if self._feedback is not None:
            self._feedback.remember(answers.request_id, predicted)
        if self._sampler is not None:
            for place, (image, number) in enumerate(zip(request.images, predicted, strict=True)):
                if isinstance(image, bytes):
                    self._sampler.offer(answers.request_id, place, image, self._labels[number])

    def take_feedback(self, body: bytes) -> Mapping[str, int]:
        """Take labels in; how many, and how many could not be used.

        Raises:
            Refused: the body makes no sense, or feedback is off.
        """
        if self._feedback is None:
            raise BadRequest("Feedback is off here. Turn it on with --feedback.")
        if len(body) > MOST_FEEDBACK_BYTES:
            raise TooLarge(
                f"The body is larger than {MOST_FEEDBACK_BYTES:,} bytes. Send fewer labels at once."
            )
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"The body is not JSON: {error}.") from error
        entries = read_entries(document)
        counts = self._feedback.take(entries)
        if self._sampler is not None:
            for one in entries:
                if one.label in self._labels:
                    self._sampler.label(one.request_id, one.image, one.label)
        self._metrics.feedback(counts, *self._feedback.accuracy())
        return counts

    async def document(self) -> dict[str, Any]:
        """What is known now, for JSON."""
        off = {"message": "Off here: --drift-window says how many images are compared."}
        report = await self._fresh_report()
        told: dict[str, Any] = {"shift": off} if report is None else dict(report.document)
        told["feedback"] = (
            {"message": "Off here: --feedback turns it on."}
            if self._feedback is None
            else self._feedback.document()
        )
        if self._sampler is not None:
            told["sample"] = {"kept": self._sampler.kept, "letGo": self._sampler.let_go}
        return told

    async def _fresh_report(self) -> Report | None:
        monitor = self._monitor
        if monitor is None:
            return None
        async with self._one_at_a_time:
            if self._report is None or time.monotonic() - self._reported > FRESH_SECONDS:
                sample = monitor.sample()
                self._report = await self._compute(lambda: monitor.report(sample))
                self._reported = time.monotonic()
                self._metrics.monitored(self._report)
            return self._report

    async def _report_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                await self._fresh_report()
            except Exception:  # monitoring must never end; the next window may do better
                logger.exception("Monitoring failed")
