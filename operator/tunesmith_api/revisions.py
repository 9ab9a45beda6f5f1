"""What the operator and those who ask it must agree on about revisions; pure."""

from collections.abc import Iterable

from tunesmith_api.status import HistoryEntry

REVISION_HEADER = "x-tunesmith-revision"
"""A request with this header goes to the revision that it names."""
PREDICTOR_PORT = 8080
"""Where a predictor listens in its pod."""


def predictor_name(revision: str) -> str:
    """The Service and the Deployment that KServe makes of a revision."""
    return f"{revision}-predictor"


def predecessor(
    history: Iterable[HistoryEntry], stable: str | None, without: str | None = None
) -> HistoryEntry | None:
    """The last revision before the stable one that had all the traffic and was not sent away since.

    Args:
        history: the newest first.
        stable: the revision that answers.
        without: one more that does not count.
    """
    gone = {stable or "", without or ""}
    for entry in history:
        if entry.outcome == "Promoted" and entry.revision not in gone:
            return entry
        if entry.outcome in ("RolledBack", "Rejected"):
            gone.add(entry.revision)
    return None
