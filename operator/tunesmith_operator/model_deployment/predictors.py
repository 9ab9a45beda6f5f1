"""What predictors have counted since a step began, and a prediction through the address that people use."""

import asyncio
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import aiohttp

from tunesmith_api.revisions import REVISION_HEADER
from tunesmith_api.status import CanaryStatus
from tunesmith_operator.kinds import Key
from tunesmith_operator.model_deployment.analysis import Counts, Window
from tunesmith_operator.model_deployment.counters import SECONDS, Counters, address_of, body_of
from tunesmith_operator.model_deployment.pods import PredictorPod

MIRROR_TRIES, MIRROR_SECONDS = 5, 0.3
"""How often a copy is asked for, and how long each is waited for."""
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
        counters: where it is read.
    """

    def __init__(self, counters: Counters) -> None:
        """Nothing was read yet."""
        self._counters = counters
        self._steps: dict[Key, _Step] = {}

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
        said = await self._counters.read([pod for _, pod in asked])
        for revision, pod in asked:
            if counts := said.counts.get(pod.uid):
                step.heard(revision, pod, counts, first=begins)
        return Window(self._sum(step, stable), self._sum(step, canary.revision), said.complaint)

    def _sum(self, step: _Step, revision: str) -> Counts:
        total = Counts()
        for uid, (of, counts) in step.last.items():
            if of == revision:
                total += counts.since(step.began[uid])
        return total


class Prober:
    """Asks for a prediction as people do.

    Args:
        session: to ask with.
        counters: of the predictors themselves: what they have counted this moment.
    """

    def __init__(self, session: aiohttp.ClientSession, counters: Counters) -> None:
        """Nothing was asked yet."""
        self._session, self._counters, self._picture = session, counters, grey_png()

    async def mirrors(self, pods: Iterable[PredictorPod], address: str, host: str, model: str) -> bool:
        """Whether a request to this host is answered, and a copy of it reaches these pods."""
        shadows = [pod for pod in pods if pod.ready and pod.address]
        before = await self._answered(shadows)
        for _ in range(MIRROR_TRIES):
            if await self.ask(address, host, model):
                return False
            await asyncio.sleep(MIRROR_SECONDS)
            if await self._answered(shadows) > before:
                return True
        return False

    async def _answered(self, pods: list[PredictorPod]) -> float:
        """Requests that pods have answered in all their life; pods that are silent count as none."""
        said = await self._counters.read(pods)
        return sum(counts.answered for counts in said.counts.values())

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
                said = await body_of(answer)
                who = answer.headers.get(REVISION_HEADER)
                if answer.status == 200 and revision and who != revision:
                    return f"{host} answered by {who}, not by {revision}."
                if answer.status == 200:
                    return ""
                words = said[:200].decode(errors="replace").strip() or "nothing more"
                return f"{host} answered {answer.status}: {words}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return f"{host} at {address} did not answer ({type(error).__name__})."


def addresses(pods: Iterable[PredictorPod]) -> list[str]:
    """HOST:PORT of each pod that is ready."""
    return [address_of(pod) for pod in pods if pod.ready and pod.address]
