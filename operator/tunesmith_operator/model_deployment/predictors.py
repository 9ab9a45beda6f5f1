"""Asks predictors: what they have counted, and a prediction through the address that people use."""

import asyncio
import math
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tunesmith_api.revisions import PREDICTOR_PORT, REVISION_HEADER
from tunesmith_api.status import CanaryStatus
from tunesmith_operator.kinds import Key
from tunesmith_operator.model_deployment.analysis import Counts, Window
from tunesmith_operator.model_deployment.pods import PredictorPod

SECONDS = 3.0
MOST_BYTES = 4_000_000
"""Of an answer; more is no predictor's."""
MOST_AT_ONCE = 16
MIRROR_TRIES, MIRROR_SECONDS = 5, 0.3
"""How often a copy is asked for, and how long each is waited for."""
_PREFIX = "tunesmith_"
_READ = tuple(
    f"{_PREFIX}{name}" for name in ("requests_total", "request_seconds_bucket", "predicted_total", "feedback")
)
"""Beginnings of the lines that are read; of all others none is parsed."""
_PREDICTIONS, _EXPLANATIONS = frozenset({"predict", "infer"}), frozenset({"explain"})
_SIDE = 64


def grey_png(side: int = _SIDE) -> bytes:
    """A grey picture, uint8 [side, side], as PNG: something to predict that has no content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = (b"\0" + b"\x80" * side) * side
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def read_counts(text: str) -> Counts:
    """Understand what a predictor serves at ``/metrics``; a pod that says it is one may serve anything.

    Raises:
        ValueError: it is no exposition format, or counts what cannot be counted.
    """
    ours = "\n".join(line for line in text.splitlines() if line.startswith(_READ))
    requests: defaultdict[str, float] = defaultdict(float)
    seconds: defaultdict[float, float] = defaultdict(float)
    predicted: defaultdict[str, float] = defaultdict(float)
    labels = accuracy = 0.0
    for family in text_string_to_metric_families(f"{ours}\n"):
        for name, said, value, *_ in family.samples:
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


@dataclass
class _Step:
    """What pods had counted when a step began, and what they said last."""

    of: tuple[str, int, datetime | None]
    began: dict[str, Counts] = field(default_factory=dict)
    last: dict[str, tuple[str, Counts]] = field(default_factory=dict)

    def heard(self, revision: str, pod: PredictorPod, counts: Counts, *, first: bool) -> None:
        """Take a reading of a pod.

        What counts is from the first reading on, or all of it where the pod is younger than the step. A
        container that begins anew counts from nothing.
        """
        since = self.of[2]
        older = first or (since is not None and pod.created < since)
        if pod.uid not in self.began:
            self.began[pod.uid] = counts if older else Counts()
        elif counts.answered < self.last[pod.uid][1].answered:
            self.began[pod.uid] = Counts()
        self.last[pod.uid] = (revision, counts)


class Meter:
    """Reads what predictors count, and keeps where each step began.

    In memory alone: an operator that takes over begins the step's count anew, and waits for it.

    Args:
        session: to ask with.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Nothing was read yet."""
        self._session = session
        self._steps: dict[Key, _Step] = {}
        self._room = asyncio.Semaphore(MOST_AT_ONCE)

    def forget(self, key: Key) -> None:
        """A deployment is gone, or tries nothing out."""
        self._steps.pop(key, None)

    async def window(
        self, key: Key, canary: CanaryStatus, stable: str, pods: dict[str, tuple[PredictorPod, ...]]
    ) -> Window:
        """What both revisions have counted since the canary's present step began.

        Args:
            key: whose step it is.
            canary: as the status has it.
            stable: the stable revision.
            pods: by revision.
        """
        present = (canary.revision, canary.step, canary.since)
        step = self._steps.get(key)
        begins = step is None or step.of != present
        if step is None or begins:
            step = self._steps[key] = _Step(present)
        asked = [
            (revision, pod)
            for revision in (stable, canary.revision)
            for pod in pods.get(revision, ())
            if pod.ready and pod.address
        ]
        said = await asyncio.gather(*(self._counts(pod) for _, pod in asked))
        for (revision, pod), counts in zip(asked, said, strict=True):
            if counts is not None:
                step.heard(revision, pod, counts, first=begins)
        return Window(
            self._sum(step, stable),
            self._sum(step, canary.revision),
            complete=all(counts is not None for counts in said),
        )

    def _sum(self, step: _Step, revision: str) -> Counts:
        total = Counts()
        for uid, (of, counts) in step.last.items():
            if of == revision:
                total += counts.since(step.began[uid])
        return total

    async def answered(self, pods: Iterable[PredictorPod]) -> float:
        """Requests that pods have answered in all their life; pods that are silent count as none."""
        said = await asyncio.gather(*(self._counts(pod) for pod in pods if pod.ready and pod.address))
        return sum(counts.answered for counts in said if counts is not None)

    async def _counts(self, pod: PredictorPod) -> Counts | None:
        try:
            async with self._room:
                text = await self._get(f"http://{_host(pod.address)}:{PREDICTOR_PORT}/metrics")
                # Of thousands of classes this takes a while, in which the lease has to be renewed.
                return await asyncio.to_thread(read_counts, text)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    async def _get(self, url: str) -> str:
        # A pod of somebody's own making must not lead the operator elsewhere.
        asked = self._session.get(url, timeout=aiohttp.ClientTimeout(SECONDS), allow_redirects=False)
        async with asked as answer:
            if answer.status != 200:
                raise ValueError(f"it answered {answer.status}")
            return (await _body(answer)).decode()


class Prober:
    """Asks for a prediction as people do.

    Args:
        session: to ask with.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Nothing was asked yet."""
        self._session, self._picture = session, grey_png()

    async def mirrors(
        self, meter: Meter, pods: Iterable[PredictorPod], address: str, host: str, model: str
    ) -> bool:
        """Whether a request to this host is answered, and a copy of it reaches these pods."""
        shadows = list(pods)
        before = await meter.answered(shadows)
        for _ in range(MIRROR_TRIES):
            if await self.ask(address, host, model):
                return False
            await asyncio.sleep(MIRROR_SECONDS)
            if await meter.answered(shadows) > before:
                return True
        return False

    async def ask(self, address: str, host: str, model: str, revision: str = "") -> str:
        """A prediction of a grey picture; returns a complaint, empty when it was answered.

        Args:
            address: HOST:PORT that is connected to, anew each time.
            host: the name that is asked for.
            model: in the path.
            revision: that has to answer; any when empty.
        """
        url = f"http://{address}/v1/models/{model}:predict"
        headers = {"Host": host, "Content-Type": "image/png", "Connection": "close"}
        if revision:
            headers[REVISION_HEADER] = revision
        try:
            async with self._session.post(
                url,
                data=self._picture,
                headers=headers,
                timeout=aiohttp.ClientTimeout(SECONDS),
                allow_redirects=False,
            ) as answer:
                said = await _body(answer)
                who = answer.headers.get(REVISION_HEADER)
                if answer.status == 200 and revision and who != revision:
                    return f"{host} answered by {who}, not by {revision}."
                if answer.status == 200:
                    return ""
                words = said[:200].decode(errors="replace").strip() or "nothing more"
                return f"{host} answered {answer.status}: {words}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return f"{host} at {address} did not answer ({type(error).__name__})."


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """An answer's body, of which a predictor's are small."""
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_chunked(65_536):
        size += len(part)
        if size > MOST_BYTES:
            raise ValueError("the answer is too long")
        parts.append(part)
    return b"".join(parts)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def addresses(pods: Iterable[PredictorPod]) -> list[str]:
    """HOST:PORT of each pod that is ready."""
    return [f"{_host(pod.address)}:{PREDICTOR_PORT}" for pod in pods if pod.ready and pod.address]
