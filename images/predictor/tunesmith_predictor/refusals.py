"""Why a request is not answered: an HTTP status, the same as a gRPC code, and a sentence that helps."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from tunesmith_package.preprocess import ImageInvalid


class Refused(Exception):
    """A request that is answered with a reason instead.

    Attributes:
        status: 4xx, or 503 while the server stops.
        message: one or two sentences: what is wrong and what to do.
        headers: of the answer.
    """

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Keep all three."""
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


class BadRequest(Refused):
    """The request makes no sense to this model."""

    def __init__(self, message: str) -> None:
        """A 400."""
        super().__init__(HTTPStatus.BAD_REQUEST, message)


class TooLarge(Refused):
    """More bytes, pixels or images than are taken."""

    def __init__(self, message: str) -> None:
        """A 413."""
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


class Busy(Refused):
    """The queue is full."""

    def __init__(self, retry_after_seconds: int) -> None:
        """A 429 that says when to come back."""
        message = (
            "Too many images are waiting here already. "
            f"Send it again in {retry_after_seconds} s, or let more replicas share the work."
        )
        super().__init__(HTTPStatus.TOO_MANY_REQUESTS, message, {"retry-after": str(retry_after_seconds)})


def image_refused(error: ImageInvalid, which: int | None) -> Refused:
    """The answer to an image that cannot be used; ``which`` is its place among several."""
    subject = "" if which is None else f"Image {which}: "
    message = f"{subject}{error.message} {error.next_step}"
    return TooLarge(message) if error.kind == "pixel-bomb" else BadRequest(message)
