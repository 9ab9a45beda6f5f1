"""A proxy between an operator and the API server that does to requests what networks and servers do.

It speaks TLS with the API server's own certificate, so the operator knows no difference. Everything that
passes is recorded; rules say what happens to which requests.
"""

import asyncio
import contextlib
import json
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HELD_SECONDS = 1.0
_HOP_BY_HOP = frozenset({"connection", "content-length", "content-encoding", "host", "transfer-encoding"})


@dataclass(frozen=True)
class Request:
    """What an operator asked for."""

    method: str
    path: str
    query: str

    @property
    def writes(self) -> bool:
        """Whether it changes something; the lease does not count."""
        return self.method in WRITES and "/leases" not in self.path

    @property
    def watches(self) -> bool:
        return "watch=true" in self.query

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Fault:
    """What happens to requests.

    Attributes:
        method: of the requests, as a regular expression.
        path: of the requests, as a regular expression.
        watch: only watches (True), only others (False), or both (None).
        times: how often; 0 for always.
        status: answered instead of the server, 0 for none; a watch is told in its stream, as the server does.
        delay: seconds before the request is passed on.
        lose: `request`: it never reaches the server; `answer`: the server does it, the operator is cut off.
        silence: a watch stays open and tells nothing.
        reorder: a watch tells its events in pairs, the later first and twice; one that none follows within a
            second is told alone, for a server keeps nothing to itself.
        late: seconds that each event of a watch is held back.
        stale: a list is answered as it was the first time that somebody asked for it.
    """

    method: str = ".*"
    path: str = ".*"
    watch: bool | None = None
    times: int = 0
    status: int = 0
    delay: float = 0.0
    lose: str = ""
    silence: bool = False
    reorder: bool = False
    late: float = 0.0
    stale: bool = False
    met: int = 0

    def meets(self, request: Request) -> bool:
        """Whether it happens to this request; counts it."""
        if self.times and self.met >= self.times:
            return False
        if self.watch is not None and self.watch != request.watches:
            return False
        if not re.fullmatch(self.method, request.method) or not re.search(self.path, request.path):
            return False
        self.met += 1
        return True


@dataclass
class FaultyProxy:
    """Runs in a thread of its own from `start` to `stop`."""

    server: str
    folder: Path
    faults: list[Fault] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)
    before_write: Callable[[int, Request], None] = lambda number, request: None
    after_write: Callable[[int, Request], None] = lambda number, request: None
    port: int = 0
    _writes: int = 0
    _first: dict[str, web.Response] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _streams: set[web.StreamResponse] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def writes(self) -> list[Request]:
        """Requests that changed something, in order."""
        return [one for one in self.seen if one.writes]

    @property
    def open_watches(self) -> int:
        """Watches whose stream has begun and not ended."""
        return len(self._streams)

    def start(self) -> "FaultyProxy":
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="faulty-proxy", daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def stop(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(10)

    def cut_all(self) -> None:
        """Close every connection that is open, as a restarted load balancer does."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for stream in list(self._streams):
            transport = stream._req.transport if stream._req else None
            if transport is not None:
                transport.abort()

    def _run(self, ready: threading.Event) -> None:
        asyncio.run(self._main(ready))

    async def _main(self, ready: threading.Event) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        await self._serve()
        ready.set()
        await self._ending.wait()
        self._cut()
        await self._session.close()
        await self._runner.cleanup()

    async def _serve(self) -> None:
        trusted = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        self._session = ClientSession(
            connector=TCPConnector(ssl=trusted, limit=0),
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
        )
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.load_cert_chain(self.folder / "apiserver.crt", self.folder / "apiserver.key")
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=own).start()
        self.port = self._runner.addresses[0][1]

    async def _pass_on(self, incoming: web.Request) -> web.StreamResponse:
        request = Request(incoming.method, incoming.path, incoming.query_string)
        fault = next((one for one in list(self.faults) if one.meets(request)), Fault())
        self.seen.append(request)
        number = 0
        if request.writes:
            self._writes += 1
            number = self._writes
            self.before_write(number, request)
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.lose == "request":
            return _cut_off(incoming)
        if fault.status and request.watches:
            error = {"kind": "Status", "code": fault.status, "reason": "Expired", "message": "injected"}
            return web.Response(text=json.dumps({"type": "ERROR", "object": error}) + "\n")
        if fault.status:
            return web.json_response(
                {"kind": "Status", "code": fault.status, "reason": "Injected", "message": "injected"},
                status=fault.status,
                headers={"Retry-After": "1"} if fault.status == 429 else None,
            )
        if fault.stale and (earlier := self._first.get(incoming.path_qs)):
            return _copy_of(earlier)
        headers = {key: value for key, value in incoming.headers.items() if key.lower() not in _HOP_BY_HOP}
        try:
            body = await incoming.read() or None
            async with self._session.request(
                incoming.method, self.server + incoming.path_qs, data=body, headers=headers
            ) as answer:
                if request.watches:
                    return await self._stream(incoming, answer, fault)
                content = await answer.read()
        except OSError:
            return _cut_off(incoming)
        if request.writes:
            self.after_write(number, request)
        if fault.lose == "answer":
            return _cut_off(incoming)
        kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP_BY_HOP}
        if encoding := answer.headers.get("Content-Encoding"):
            kept["Content-Encoding"] = encoding
        response = web.Response(body=content, status=answer.status, headers=kept)
        if request.method == "GET":
            self._first.setdefault(incoming.path_qs, _copy_of(response))
        return response

    async def _stream(self, incoming: web.Request, answer: Any, fault: Fault) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
        await response.prepare(incoming)
        self._streams.add(response)
        pairs = _Pairs(response)
        try:
            async for line in _lines(answer):
                if fault.silence:
                    continue
                if fault.late:
                    await asyncio.sleep(fault.late)
                await (pairs.tell(line) if fault.reorder else response.write(line))
            await response.write_eof()
        except (OSError, ConnectionError):
            pass
        finally:
            pairs.end()
            self._streams.discard(response)
        return response


class _Pairs:
    """Tells two events of a watch at a time, the later first and twice."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response
        self._held: bytes | None = None
        self._alone: asyncio.Task[None] | None = None

    async def tell(self, line: bytes) -> None:
        if self._held is None:
            self._held = line
            self._alone = asyncio.create_task(self._tell_alone())
            return
        self.end()
        earlier, self._held = self._held, None
        for one in (line, earlier, line):
            await self._response.write(one)

    async def _tell_alone(self) -> None:
        await asyncio.sleep(HELD_SECONDS)
        line, self._held = self._held, None
        if line is not None:
            with contextlib.suppress(OSError):  # nobody listens any more
                await self._response.write(line)

    def end(self) -> None:
        """Nothing is told alone any more."""
        if self._alone is not None and self._held is not None:
            self._alone.cancel()


def _copy_of(response: web.Response) -> web.Response:
    """One that is not sent yet."""
    headers = {key: value for key, value in response.headers.items() if key.lower() not in _HOP_BY_HOP}
    if encoding := response.headers.get("Content-Encoding"):
        headers["Content-Encoding"] = encoding
    return web.Response(body=response.body, status=response.status, headers=headers)


def _cut_off(incoming: web.Request) -> web.Response:
    if incoming.transport is not None:
        incoming.transport.abort()
    return web.Response(status=502)


async def _lines(answer: Any) -> Any:
    """Events of a watch, one at a time; a long one may come in pieces."""
    rest = b""
    async for piece in answer.content.iter_any():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
