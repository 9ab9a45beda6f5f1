"""Staying with a resource of a cluster until something is the case."""

import time
from collections.abc import Callable

from tunesmith.cluster_resources import R, Resources
from tunesmith_api.reasons import DeadlineExceeded

DAY = 86_400.0
Say = Callable[[str], None]
"""Takes a sentence for people."""


def silent(text: str) -> None:
    """Says nothing."""


def follow(
    resources: Resources[R],
    name: str,
    end: Callable[[R], int | None],
    sentence: Callable[[R], str],
    news: Callable[[R], object],
    say: Say,
    *,
    timeout: float = DAY,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Wait until ``end`` gives an exit code.

    Args:
        resources: of the kind.
        name: which of them.
        end: None while it is not over.
        sentence: what is the case.
        news: what has to change for the sentence to be said again.
        say: takes the sentences.
        timeout: in seconds.
        clock: seconds that go on.

    Raises:
        DeadlineExceeded: it is not over within ``timeout`` seconds.
        ResourceMissing: there is none of this name, or not any more.
    """
    deadline = clock() + timeout
    told: object = None
    while True:
        for resource in resources.watch(name, deadline - clock()):
            if (new := news(resource)) != told:
                say(sentence(resource))
                told = new
            if (code := end(resource)) is not None:
                return code
            if clock() > deadline:
                break
        if clock() > deadline:
            raise DeadlineExceeded(
                f"{resources.called(name)} is not over after {timeout:g} s; it goes on.",
                f"See it with tunesmith status {resources.called(name)}.",
            )
