"""What predictors have counted: read from each pod, or from a Prometheus that reads them all."""

import asyncio
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tunesmith_api.revisions import PREDICTOR_PORT
from tunesmith_operator.model_deployment.analysis import Counts
from tunesmith_operator.model_deployment.pods import PredictorPod

SECONDS = 3.0
MOST_BYTES = 4_000_000
"""Of an answer for each predictor; more is none's."""
MOST_AT_ONCE = 16
_PREFIX = "tunesmith_"
_NAMES = ("requests_total", "request_seconds_bucket", "predicted_total", "feedback")
"""Beginnings of the names that are read; of all others nothing is parsed."""
_READ = tuple(f"{_PREFIX}{name}" for name in _NAMES)
_PREDICTIONS, _EXPLANATIONS = frozenset({"predict", "infer"}), frozenset({"explain"})


class Sample(NamedTuple):
    """A number of Prometheus' exposition format."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Reading:
    """What pods had counted when they were asked.

    Attributes:
        counts: by the uid of the pod; those that said nothing are not there.
        complaint: who said nothing and why, as a sentence; empty when all did.
    """

    counts: Mapping[str, Counts] = field(default_factory=dict)
    complaint: str = ""


class Counters(Protocol):
    """Where it is read what predictors have counted."""

    async def read(self, pods: Sequence[PredictorPod]) -> Reading:
        """What these pods have counted in all their life; each has an address."""
        ...


class FromPods:
    """Asks each pod itself.

    Args:
        session: to ask with.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Nothing was read yet."""
        self._session = session
        self._room = asyncio.Semaphore(MOST_AT_ONCE)

    async def read(self, pods: Sequence[PredictorPod]) -> Reading:
        """What they say at ``/metrics``."""
        said = await asyncio.gather(*map(self._counts, pods))
        heard = {pod.uid: counts for pod, counts in zip(pods, said, strict=True) if counts is not None}
        return Reading(heard, _complaint(pods, heard, "did not answer"))

    async def _counts(self, pod: PredictorPod) -> Counts | None:
        # A pod of somebody's own making must not lead the operator elsewhere.
        url = f"http://{address_of(pod)}/metrics"
        try:
            async with (
                self._room,
                self._session.get(
                    url, timeout=aiohttp.ClientTimeout(SECONDS), allow_redirects=False
                ) as answer,
            ):
                if answer.status != 200:
                    return None
                text = (await body_of(answer)).decode()
                # Of thousands of classes this takes a while, in which the lease has to be renewed.
                return await asyncio.to_thread(read_text, text)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None


class FromPrometheus:
    """Asks a Prometheus for the latest sample that it has of each pod.

    A pod is known by the label ``instance``, which is HOST:PORT unless a configuration says otherwise. What
    is read is as old as Prometheus' last look at the pod, so a step's window may begin that much earlier.

    Args:
        session: to ask with.
        url: of the server, like ``http://prometheus.monitoring:9090``.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """Nothing was read yet."""
        self._session, self._url = session, url.rstrip("/")

    async def read(self, pods: Sequence[PredictorPod]) -> Reading:
        """What Prometheus has of them, by one query (``/api/v1/query``)."""
        if not pods:
            return Reading()
        try:
            async with self._session.post(
                f"{self._url}/api/v1/query",
                data={"query": _query(pods)},
                timeout=aiohttp.ClientTimeout(SECONDS),
                allow_redirects=False,
            ) as answer:
                if answer.status != 200:
                    return Reading({}, f"Prometheus at {self._url} answered {answer.status}.")
                text = await body_of(answer, MOST_BYTES * len(pods))
                heard = await asyncio.to_thread(read_answer, text, pods)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            said = f"Prometheus at {self._url} did not answer ({type(error).__name__})."
            return Reading({}, said)
        return Reading(heard, _complaint(pods, heard, "are not known to Prometheus"))


def _query(pods: Sequence[PredictorPod]) -> str:
    names = "|".join(f"{name}.*" for name in _READ)
    # A string of PromQL has escapes of its own.
    instances = "|".join(re.escape(address_of(pod)) for pod in pods).replace("\\", "\\\\")
    return f'{{__name__=~"{names}", instance=~"{instances}"}}'


def read_answer(text: bytes, pods: Iterable[PredictorPod]) -> dict[str, Counts]:
    """Understand a vector that Prometheus answers: what each of these pods has counted, by its uid.

    A pod that two jobs of Prometheus look at is counted once, by the one that has seen more.

    Raises:
        ValueError: it is no such answer, or counts what cannot be counted.
    """
    samples: defaultdict[str, defaultdict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    try:
        for one in json.loads(text)["data"]["result"]:
            labels = one["metric"]
            sample = Sample(labels["__name__"], labels, float(one["value"][1]))
            samples[labels["instance"]][labels.get("job", "")].append(sample)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"it is no vector: {error!r}") from error
    return {
        pod.uid: max(map(count, samples[address_of(pod)].values()), key=lambda counts: counts.answered)
        for pod in pods
        if address_of(pod) in samples
    }


def read_text(text: str) -> Counts:
    """Understand what a predictor serves at ``/metrics``; a pod that says it is one may serve anything.

    Raises:
        ValueError: it is no exposition format, or counts what cannot be counted.
    """
    ours = "\n".join(line for line in text.splitlines() if line.startswith(_READ))
    families = text_string_to_metric_families(f"{ours}\n")
    return count(Sample(*one[:3]) for family in families for one in family.samples)


def count(samples: Iterable[Sample]) -> Counts:
    """Add up the samples of one pod.

    Raises:
        ValueError: one counts what cannot be counted.
    """
    requests: defaultdict[str, float] = defaultdict(float)
    seconds: defaultdict[float, float] = defaultdict(float)
    predicted: defaultdict[str, float] = defaultdict(float)
    labels = accuracy = 0.0
    for name, said, value in samples:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}")
        verb = said.get("verb", "")
        if name == f"{_PREFIX}requests_total" and verb in _PREDICTIONS | _EXPLANATIONS:
            requests[said.get("code", "")] += value
        elif name == f"{_PREFIX}request_seconds_bucket" and verb in _PREDICTIONS:
            seconds[float(said.get("le", ""))] += value
        elif name == f"{_PREFIX}predicted_total":
            predicted[said.get("label", "")] += value
        elif name == f"{_PREFIX}feedback_total" and said.get("outcome") == "taken":
            labels += value
        elif name == f"{_PREFIX}feedback_accuracy":
            accuracy = value
    return Counts(dict(requests), dict(seconds), dict(predicted), labels, labels * accuracy)


def _complaint(pods: Sequence[PredictorPod], heard: Mapping[str, Counts], what: str) -> str:
    silent = [pod.name for pod in pods if pod.uid not in heard]
    return f"{len(silent)} of {len(pods)} predictors {what}: {', '.join(silent[:3])}." if silent else ""


async def body_of(answer: aiohttp.ClientResponse, most: int = MOST_BYTES) -> bytes:
    """An answer's body, unless it is longer than it should be.

    Raises:
        ValueError: it is.
    """
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_chunked(65_536):
        size += len(part)
        if size > most:
            raise ValueError("the answer is too long")
        parts.append(part)
    return b"".join(parts)


def address_of(pod: PredictorPod) -> str:
    """HOST:PORT where a predictor listens."""
    host = f"[{pod.address}]" if ":" in pod.address else pod.address
    return f"{host}:{PREDICTOR_PORT}"
