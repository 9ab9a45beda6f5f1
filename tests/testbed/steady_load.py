"""Requests at a steady rate while a test moves things: who answered each, and every one that failed."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

SENDERS = 4
"""Connections that take turns, so that one slow answer does not hold up the rate."""


@dataclass
class Answers:
    """What came back so far."""

    served_by: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.served_by.values()) + len(self.failures)

    def share(self, server: str) -> float:
        """Of all requests, failed ones included; between 0 and 1."""
        return self.served_by[server] / self.total


class SteadyLoad:
    """Posts one body again and again inside `with`; an answer other than 200 in time is a failure.

    Args:
        url: asked.
        body: sent as JSON; the answer's `served_by` names the server.
        headers: sent too, like the host name that a gateway goes by.
        per_second: how many requests; the next one is sent on time even where others are late.
    """

    def __init__(self, url: str, body: Any, headers: Mapping[str, str], per_second: float = 20) -> None:
        self._url, self._body, self._headers = url, body, dict(headers)
        self._interval = SENDERS / per_second
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._answers = Answers()

    @property
    def answers(self) -> Answers:
        """As of now; the load goes on."""
        with self._lock:
            return Answers(self._answers.served_by.copy(), self._answers.failures.copy())

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._send, args=(one,)) for one in range(SENDERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int, seconds: float = 60) -> None:
        """Until so many more requests are over."""
        goal, deadline = self.answers.total + more, time.monotonic() + seconds
        while self.answers.total < goal:
            assert time.monotonic() < deadline, f"{self.answers} after {seconds} s, not {goal} requests"
            time.sleep(0.02)

    def _send(self, number: int) -> None:
        due = time.monotonic() + number * self._interval / SENDERS
        with httpx.Client(headers=self._headers, timeout=5) as client:
            while not self._over.wait(max(0.0, due - time.monotonic())):
                due += self._interval
                server, failure = self._ask(client)
                with self._lock:
                    if failure:
                        self._answers.failures.append(failure)
                    else:
                        self._answers.served_by[server] += 1

    def _ask(self, client: httpx.Client) -> tuple[str, str]:
        """Who answered and nothing, or nothing and what went wrong."""
        try:
            answer = client.post(self._url, json=self._body)
        except httpx.HTTPError as error:
            return "", repr(error)
        if answer.status_code != httpx.codes.OK:
            return "", f"{answer.status_code}: {answer.text[:200]}"
        return str(answer.json()["served_by"]), ""
