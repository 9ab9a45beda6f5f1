"""From a request to its answers, the same for every protocol."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tunesmith_package.inference import Predictor
from tunesmith_package.preprocess import Float32Array, ImageInvalid
from tunesmith_predictor.answers import Answers, Explanation, explanation
from tunesmith_predictor.engine import Answer, Engine, Question
from tunesmith_predictor.questions import Options, Request
from tunesmith_predictor.refusals import BadRequest, image_refused


@dataclass(frozen=True)
class Identity:
    """Which model answers.

    Attributes:
        name: in the address.
        digest: of the package, ``sha256:...``.
        revision: of the deployment; empty outside of one.
    """

    name: str
    digest: str
    revision: str = ""

    def headers(self, request_id: str) -> dict[str, str]:
        """Headers of every answer."""
        known = {"x-request-id": request_id, "x-tunesmith-model-digest": self.digest}
        return {**known, "x-tunesmith-revision": self.revision} if self.revision else known


class Service:
    """Answers requests with one model.

    Attributes:
        identity: which model it is.
        predictor: the model.
        engine: where it runs.
    """

    def __init__(
        self,
        identity: Identity,
        predictor: Predictor,
        engine: Engine,
        on_answers: Callable[[Request, Answers], None] = lambda request, answers: None,
        *,
        explanations: bool = True,
    ) -> None:
        """All stay the same for the life of the process; ``on_answers`` is told what is answered."""
        self.identity, self.predictor, self.engine = identity, predictor, engine
        self._on_answers, self._explanations = on_answers, explanations

    async def answer(self, request: Request, request_id: str | None = None) -> Answers:
        """Answer all images of a request, or none.

        Raises:
            Refused: an image cannot be used, or too many wait.
        """
        options = request.options
        if options.explain and not self._explanations:
            raise BadRequest("Explanations are off here: ask for a prediction without one.")
        self.engine.reserve(len(request.images))
        several = len(request.images) > 1
        tasks = [
            asyncio.ensure_future(self._one(image, options, index if several else None))
            for index, image in enumerate(request.images)
        ]
        try:
            pairs = await asyncio.gather(*tasks)
        except BaseException:
            # One that cannot be used refuses the request: nobody waits for the others any more.
            for task in tasks:
                task.cancel()
            raise
        explanations = [one for _, one in pairs if one is not None]
        answers = Answers(request_id or new_request_id(), [one for one, _ in pairs], explanations, options)
        self._on_answers(request, answers)
        return answers

    async def _one(
        self, image: bytes | Float32Array, options: Options, which: int | None
    ) -> tuple[Answer, Explanation | None]:
        try:
            answer = await self.engine.answer(Question(image, feature_map=options.explain))
        except ImageInvalid as error:
            raise image_refused(error, which) from error
        if not options.explain:
            return answer, None
        return answer, await self.engine.compute(lambda: self._explain(answer, options.class_name))

    def _explain(self, answer: Answer, class_name: str | None) -> Explanation:
        labels = self.predictor.labels
        index = int(answer.probabilities.argmax()) if class_name is None else labels.index(class_name)
        activation = self.predictor.explain(answer.tensor[np.newaxis], answer.feature_map, index)
        return explanation(activation, labels[index], answer, self.predictor.preprocess)


def new_request_id() -> str:
    """An id that nobody can guess: feedback is taken from whoever knows it."""
    return uuid.uuid4().hex
