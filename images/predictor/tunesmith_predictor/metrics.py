"""What Prometheus reads at ``/metrics``, in KServe's own registry; every series says which model it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram

from tunesmith_package.preprocess import Float32Array
from tunesmith_predictor.engine import Measurements
from tunesmith_predictor.monitoring.monitor import Report
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
SHIFT_P_VALUE = Gauge(
    "tunesmith_shift_p_value",
    "That the last window looks as it does without any shift; corrected for the number of columns.",
    (*_MODEL, "test"),
)
SHIFT_STATISTIC = Gauge(
    "tunesmith_shift_statistic", "Largest Kolmogorov-Smirnov distance of a column.", (*_MODEL, "test")
)
SHIFTED = Gauge("tunesmith_shifted", "1 where a test calls the window shifted.", (*_MODEL, "test"))
WINDOW = Gauge("tunesmith_window_images", "Different images in the window of monitoring.", _MODEL)
ESTIMATED = Gauge("tunesmith_estimated_accuracy", "Accuracy as confidences suggest it.", _MODEL)
FEEDBACK_ACCURACY = Gauge("tunesmith_feedback_accuracy", "Accuracy over the last feedback.", _MODEL)
FEEDBACK = Counter("tunesmith_feedback", "Labels that clients gave.", (*_MODEL, "outcome"))
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

    def monitored(self, report: Report) -> None:
        """Show the last report; what it says nothing of is not there."""
        WINDOW.labels(*self._model).set(report.samples)
        for one in report.findings:
            if one.p_value is not None and one.statistic is not None:
                SHIFT_P_VALUE.labels(*self._model, one.name).set(one.p_value)
                SHIFT_STATISTIC.labels(*self._model, one.name).set(one.statistic)
                SHIFTED.labels(*self._model, one.name).set(float(one.shifted))
        if report.estimated_accuracy is not None:
            ESTIMATED.labels(*self._model).set(report.estimated_accuracy)

    def feedback(self, counts: Mapping[str, int], accuracy: float, samples: int) -> None:
        """Count labels by what became of them, and show the accuracy that follows."""
        for outcome, count in counts.items():
            FEEDBACK.labels(*self._model, outcome).inc(count)
        if samples:
            FEEDBACK_ACCURACY.labels(*self._model).set(accuracy)
