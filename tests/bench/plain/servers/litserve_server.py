"""LitServe, as its guide to serving an image classifier shows: JSON with the image in base64."""

from __future__ import annotations

import argparse
import base64
from typing import Any

import litserve
import torch
from tests.bench.plain.servers.classifier import Classifier, read

BATCH_TIMEOUT = 0.01


class ImageClassifier(litserve.LitAPI):  # type: ignore[misc]
    """Each worker process of it holds the network, and prepares its own images."""

    def __init__(self, given: argparse.Namespace) -> None:
        """Batches only where more than one image is allowed in them."""
        batching = {"max_batch_size": given.batch, "batch_timeout": BATCH_TIMEOUT}
        super().__init__(**(batching if given.batch > 1 else {}))
        self.given = given

    def setup(self, device: str) -> None:
        """Load the network."""
        self.classifier = Classifier(self.given)

    # Without a type LitServe gives the JSON; FastAPI would look for another one in the query.
    def decode_request(self, request) -> torch.Tensor:  # type: ignore[no-untyped-def]
        """JSON to float32 [3, 224, 224]."""
        return self.classifier.prepare(base64.b64decode(request["image_data"]))

    def predict(self, x: torch.Tensor) -> Any:
        """The probabilities of one image or of each of a batch."""
        return self.classifier.of(x) if x.ndim == 4 else self.classifier.of([x])[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The probabilities of one image."""
        return {"output": output}


if __name__ == "__main__":
    given = read(__doc__)
    server = litserve.LitServer(ImageClassifier(given), accelerator="cpu", workers_per_device=given.workers)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning")
