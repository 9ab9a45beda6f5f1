"""BentoML, as its guide shows for images: one comes as the body, or several are batched adaptively."""

import os
from typing import Any

import bentoml
from PIL import Image
from tests.bench.plain.servers.classifier import Classifier, read

given = read(__doc__, os.environ["CLASSIFIER"].split())
MAX_LATENCY_MS = 1_000


@bentoml.service(workers=given.workers)
class ImageClassifier:
    """Each of its worker processes holds the network."""

    def __init__(self) -> None:
        """Load the network."""
        self.classifier = Classifier(given)

    @bentoml.api  # type: ignore[untyped-decorator]
    def one(self, image: Image.Image, /) -> list[float]:
        """The probabilities of the image that the body is."""
        return self.classifier.of([self.classifier.prepare_image(image)])[0]

    @bentoml.api(batchable=True, max_batch_size=max(2, given.batch), max_latency_ms=MAX_LATENCY_MS)  # type: ignore[untyped-decorator]
    def several(self, images: list[Image.Image]) -> list[Any]:
        """The probabilities of each image of a batch; they come as files of a form."""
        return self.classifier.of([self.classifier.prepare_image(one) for one in images])
