"""A custom model of KServe, as its documentation shows: V1 JSON, and a predict that computes."""

from __future__ import annotations

import argparse
import base64
import sys
from typing import Any

from tests.bench.plain.servers.classifier import Classifier, read


def serve(given: argparse.Namespace) -> None:
    """Serve until a signal."""
    # KServe reads sys.argv when it is imported, and knows none of our options.
    sys.argv = [sys.argv[0], "--http_port", str(given.port), "--enable_grpc", "false"]
    import kserve

    class ImageClassifier(kserve.Model):  # type: ignore[misc]
        """The network as a model of KServe's server."""

        def __init__(self) -> None:
            super().__init__("classifier")
            self.classifier = Classifier(given)
            self.ready = True

        def predict(self, payload: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
            """The probabilities of each instance."""
            encoded = [base64.b64decode(one["image"]["b64"]) for one in payload["instances"]]
            return {"predictions": self.classifier.of([self.classifier.prepare(one) for one in encoded])}

    kserve.ModelServer().start([ImageClassifier()])


if __name__ == "__main__":
    serve(read(__doc__))
