"""What every body has to get past before anything reads it: limits on bytes and time, and somebody waiting.

A body is taken whole before the application sees it, so that a client that sends slowly holds nothing but
its own connection, and all bodies together never hold more than a set number of bytes. A request whose
client hangs up is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith_predictor.refusals import Busy, Refused, TooLarge

LINGER_SECONDS = 2.0
_WITH_A_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True)
class BodyLimits:
    """What bodies may be.

    Attributes:
        bytes: of one body.
        bytes_together: of all that are here at once.
        seconds: from the first byte of a body to its last.
    """

    bytes: int = 20_000_000
    bytes_together: int = 200_000_000
    seconds: float = 30.0


class Guard:
    """ASGI middleware in front of the whole application."""

    def __init__(
        self, app: ASGIApp, limits: BodyLimits, on_refused: Callable[[int], None] = lambda status: None
    ) -> None:
        """Let ``app`` answer what gets past, and tell ``on_refused`` the status of what does not."""
        self._app, self._limits, self._on_refused = app, limits, on_refused
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] not in _WITH_A_BODY:
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []
        size = 0
        try:
            if await self._took(scope, receive, send, parts):
                body = b"".join(parts)
                size = len(body)
                parts.clear()  # else it would be here twice
                await self._pass_on(scope, body, receive, send)
        finally:
            self._held -= size + sum(map(len, parts))

    async def _took(self, scope: Scope, receive: Receive, send: Send, parts: list[bytes]) -> bool:
        """Take the body, or refuse it; whether it is here whole."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._take(scope, receive, parts)
        except Refused as refused:
            self._on_refused(int(refused.status))
            await _refuse(refused, receive, send)
        except TimeoutError:
            late = f"The body was not here after {self._limits.seconds:g} s. Send it faster, or less of it."
            self._on_refused(HTTPStatus.REQUEST_TIMEOUT)
            await _refuse(Refused(HTTPStatus.REQUEST_TIMEOUT, late), receive, send, linger=0)
        return False

    async def _take(self, scope: Scope, receive: Receive, parts: list[bytes]) -> bool:
        """Read the body; False when the client went away."""
        size = 0
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit():
            self._check(int(announced))
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            part = message.get("body", b"")
            size += len(part)
            self._check(size)
            if self._held + len(part) > self._limits.bytes_together:
                raise Busy(1)
            parts.append(part)
            self._held += len(part)
            if not message.get("more_body", False):
                return True

    def _check(self, size: int) -> None:
        if size > self._limits.bytes:
            raise TooLarge(
                f"The body is larger than {self._limits.bytes:,} bytes. Send a smaller image, or fewer."
            )

    async def _pass_on(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        given = False
        gone = asyncio.ensure_future(receive())

        async def whole_body() -> Message:
            nonlocal given
            if given:
                return await asyncio.shield(gone)
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        answer = asyncio.ensure_future(self._app(scope, whole_body, send))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.cancel()  # nobody waits for it any more
            await asyncio.gather(answer, return_exceptions=gone.done())
        finally:
            answer.cancel()
            gone.cancel()


async def _refuse(refused: Refused, receive: Receive, send: Send, *, linger: float = LINGER_SECONDS) -> None:
    """Answer without the application, then throw away what still comes for a moment.

    Most clients read no answer before they have sent their body, and lose it when the connection ends first.
    """
    body = orjson.dumps({"error": refused.message})
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **refused.headers,
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(refused.status), "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(linger):
            message = await receive()
            while message["type"] == "http.request" and message.get("more_body", False):
                message = await receive()
    await send({"type": "http.response.body", "body": b""})
