"""Bounds on a request's headers; uvicorn sets none, and reads them before any application is asked."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_BYTES = 65_536


class BoundedHeaders(HttpToolsProtocol):
    """A connection that is given up when headers are too large, or not here in time.

    The time runs from the beginning of a connection, and of each further request on it; uvicorn's own
    ``timeout_keep_alive`` bounds what lies between two requests.
    """

    def __init__(self, *args: Any, header_seconds: float, **settings: Any) -> None:
        """Take uvicorn's arguments, and the seconds that headers may take."""
        super().__init__(*args, **settings)
        self._seconds = header_seconds
        self._size = 0
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect headers."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._have()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Expect headers, where this is a further request."""
        super().on_message_begin()
        if self._late is None:
            self._expect()

    def on_headers_complete(self) -> None:
        """Have them."""
        self._have()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Give up before uvicorn keeps more than it should."""
        expecting = self._late
        super().data_received(data)
        if expecting is None or self._late is not expecting or self.transport.is_closing():
            return  # headers that begin in the midst of these bytes are counted from the next ones on
        self._size += len(data)
        if self._size > MOST_BYTES:
            self._give_up(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The headers exceed {MOST_BYTES:,} bytes."
            )

    def _expect(self) -> None:
        self._size = 0
        self._late = self.loop.call_later(self._seconds, self._too_late)

    def _have(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is on its way to whoever sends ahead; ours would end up in its middle.
            self._late = self.loop.call_later(self._seconds, self._too_late)
            return
        self._give_up(HTTPStatus.REQUEST_TIMEOUT, f"The headers were not here after {self._seconds:g} s.")

    def _give_up(self, status: HTTPStatus, message: str) -> None:
        self._have()
        body = orjson.dumps({"error": message})
        head = (
            f"HTTP/1.1 {int(status)} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
