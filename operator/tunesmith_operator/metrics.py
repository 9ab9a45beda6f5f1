"""What Prometheus can ask the operator."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client import Counter as Total
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tunesmith_operator.kinds import MODEL_DEPLOYMENT, TRAINING_JOB, Key

_PREFIX = "tunesmith_operator_"


class _Phases(Collector):
    """Our resources by phase, counted when asked."""

    def __init__(self, phases: dict[Key, str]) -> None:
        self._phases = phases

    def collect(self) -> Iterator[Metric]:
        for kind, name in ((TRAINING_JOB, "training_jobs"), (MODEL_DEPLOYMENT, "model_deployments")):
            family = GaugeMetricFamily(f"{_PREFIX}{name}", f"{kind.name}s by phase", labels=["phase"])
            phases = Counter(phase for key, phase in self._phases.items() if key.kind == kind.name)
            for phase, count in sorted(phases.items()):
                family.add_metric([phase], count)
            yield family


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        """All zero."""
        self.registry = CollectorRegistry()
        self._phases: dict[Key, str] = {}
        self.registry.register(_Phases(self._phases))
        self._seconds = Histogram(
            f"{_PREFIX}reconcile_seconds", "Time of one reconciliation", registry=self.registry
        )
        self._errors = Total(
            f"{_PREFIX}reconcile_errors", "Failed reconciliations", ["error"], registry=self.registry
        )
        self._calls = Total(
            f"{_PREFIX}api_calls",
            "Calls to the API server; code 0 is no answer",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self._call_seconds = Histogram(
            f"{_PREFIX}api_call_seconds", "Time of calls to the API server", ["verb"], registry=self.registry
        )
        self._depth = Gauge(f"{_PREFIX}queue_depth", "Keys that wait for a worker", registry=self.registry)
        self._leads = Gauge(f"{_PREFIX}leader", "1 when this replica holds the lease", registry=self.registry)

    def queue_depth(self, depth: Callable[[], int]) -> None:
        """Where the depth of the queue is to be read."""
        self._depth.set_function(lambda: float(depth()))

    def called(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """Count a call to the API server."""
        self._calls.labels(verb, resource, str(code)).inc()
        self._call_seconds.labels(verb).observe(seconds)

    @contextmanager
    def reconciling(self) -> Iterator[None]:
        """Time a reconciliation and count its failure."""
        begun = time.monotonic()
        try:
            yield
        except Exception as error:
            self._errors.labels(type(error).__name__).inc()
            raise
        finally:
            self._seconds.observe(time.monotonic() - begun)

    def phase(self, key: Key, phase: str | None) -> None:
        """A resource is in this phase, or gone."""
        if phase is None:
            self._phases.pop(key, None)
        else:
            self._phases[key] = phase

    def leads(self, leads: bool) -> None:
        """Whether this replica holds the lease."""
        self._leads.set(float(leads))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
