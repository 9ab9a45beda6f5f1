"""Photos at a steady rate through the gateway, as people would send them, and who answered."""

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
from tests.cluster.platform import REVISION, Photo, Team, photos

PER_SECOND = 20.0
_CLIENTS = 4


@dataclass
class Load:
    """Requests from `__enter__` to `__exit__`.

    Attributes:
        team: whose deployment it is.
        name: of the deployment.
        tell: whether the true label is told after each answer.
        served: answers by revision.
        failures: what was no answer, in words, with the seconds since the beginning.
        times: when each request that was answered was sent, by the monotonic clock, and by whom.
    """

    team: Team
    name: str
    tell: bool = False
    served: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    times: list[tuple[float, str]] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._begun, self._over = time.monotonic(), threading.Event()
        self._turns = itertools.cycle(photos("val"))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def share(self, revision: str, begun: float, ended: float) -> float:
        """Of the requests sent in this time that were answered."""
        within = [one for when, one in self._times() if begun <= when < ended]
        return within.count(revision) / len(within)

    def sent(self, begun: float, ended: float) -> int:
        """Requests of this time that were answered."""
        return sum(begun <= when < ended for when, _ in self._times())

    def first(self, revision: str) -> float:
        """When the first request was sent that this revision answered."""
        return min(when for when, one in self._times() if one == revision)

    def last(self, revision: str) -> float:
        """When the last request was sent that this revision answered."""
        return max(when for when, one in self._times() if one == revision)

    def _times(self) -> list[tuple[float, str]]:
        with self._lock:
            return list(self.times)

    def _run(self, number: int) -> None:
        due = time.monotonic() + number / PER_SECOND
        host = self.team.host(self.name)
        with httpx.Client(base_url=self.team.platform.gateway, headers={"Host": host}, timeout=10) as client:
            while not self._over.wait(max(0.0, due - time.monotonic())):
                due += _CLIENTS / PER_SECOND
                with self._lock:
                    photo = next(self._turns)
                self._ask(client, photo)

    def _ask(self, client: httpx.Client, photo: Photo) -> None:
        content, kind = photo.path.read_bytes(), {"Content-Type": "image/jpeg"}
        begun = time.monotonic()
        try:
            answer = client.post(f"/v1/models/{self.name}:predict", content=content, headers=kind)
            failure = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            failure = repr(error)
        with self._lock:
            if failure:
                self.failures.append(f"after {begun - self._begun:.1f} s: {failure}")
                return
            revision = answer.headers[REVISION]
            self.served[revision] += 1
            self.times.append((begun, revision))
        if self.tell:
            said = {"requestId": answer.headers["x-request-id"], "label": photo.label}
            client.post("/feedback", json=said, headers={REVISION: revision})
