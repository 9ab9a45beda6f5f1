"""What Prometheus reads at ``/metrics``, in KServe's own registry; every series says which model it is of."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from tunesmith_package.preprocess import Float32Array
from tunesmith_predictor.engine import Measurements
from tunesmith_predictor.service import Identity

_MODEL = ("model", "digest", "revision")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

CLIENT_GONE = "499"
"""The code of a request whose client hung up, as nginx has it: no fault of the server, and no answer."""

REQUESTS = Counter("tunesmith_requests", "Requests answered.", (*_MODEL, "protocol", "verb", "code"))
SECONDS = Histogram(
    "tunesmith_request_seconds",
    "From the last byte of a request to its answer.",
    (*_MODEL, "protocol", "verb"),
    buckets=_SECONDS,
)
IN_FLIGHT = Gauge("tunesmith_images_in_flight", "Images that have arrived and are not answered.", _MODEL)
BATCH = Histogram(
    "tunesmith_batch_images", "Images in one inference.", _MODEL, buckets=(1, 2, 4, 8, 16, 32, 64)
)
DECODE = Histogram("tunesmith_decode_seconds", "Decoding of an image.", _MODEL, buckets=_SECONDS)
INFERENCE = Histogram("tunesmith_inference_seconds", "One inference.", _MODEL, buckets=_SECONDS)
PREDICTED = Counter("tunesmith_predicted", "Images by their most probable class.", (*_MODEL, "label"))
CONFIDENCE = Histogram(
    "tunesmith_confidence", "Probability of the most probable class.", _MODEL, buckets=_CONFIDENCE
)
INFO = Gauge("tunesmith_model_info", "1 for the model that is served.", _MODEL)


class Metrics:
    """The metrics of one model."""

    def __init__(self, identity: Identity, labels: Sequence[str]) -> None:
        """Make every series of the model, so that a rate over it starts at 0."""
        self._model = (identity.name, identity.digest, identity.revision)
        INFO.labels(*self._model).set(1)
        self._predicted = [PREDICTED.labels(*self._model, label) for label in labels]
        self._confidence = CONFIDENCE.labels(*self._model)
        self._decode, self._inference = DECODE.labels(*self._model), INFERENCE.labels(*self._model)
        self._batch = BATCH.labels(*self._model)
        self.in_flight = IN_FLIGHT.labels(*self._model)

    def engine(self) -> Measurements:
        """What the engine tells goes here."""
        return Measurements(self._decode.observe, self._ran)

    def _ran(self, images: int, seconds: float) -> None:
        self._batch.observe(images)
        self._inference.observe(seconds)

    def request(self, protocol: str, verb: str, code: str, seconds: float) -> None:
        """Count one request."""
        REQUESTS.labels(*self._model, protocol, verb, code).inc()
        SECONDS.labels(*self._model, protocol, verb).observe(seconds)

    def predicted(self, probabilities: Float32Array) -> None:
        """Count one prediction, float32 [K]."""
        index = int(probabilities.argmax())
        self._predicted[index].inc()
        self._confidence.observe(float(probabilities[index]))
