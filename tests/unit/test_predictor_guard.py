"""What every body has to get past, without a server: limits, slow clients, and those that hang up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import pytest
from starlette.types import Message, Receive, Scope, Send

from tunesmith_predictor.guard import BodyLimits, Guard

LIMITS = BodyLimits(bytes=100, bytes_together=150, seconds=0.2)


def part(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


class Client:
    """Sends what it is given, then nothing more until it hangs up."""

    def __init__(self, messages: Iterable[Message], *, hangs_up: asyncio.Event | None = None) -> None:
        self._messages = list(messages)
        self._hangs_up = hangs_up or asyncio.Event()
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        await self._hangs_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def error(self) -> str:
        return str(json.loads(self.sent[1]["body"])["error"])


class App:
    """Reads a body and answers, or works for as long as it is let."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.go = asyncio.Event()
        self.go.set()
        self.cancelled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append((await receive())["body"])
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def scope(length: int | None = None, method: str = "POST") -> Scope:
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return {"type": "http", "method": method, "headers": headers}


async def ask(guard: Guard, client: Client) -> Client:
    async with asyncio.timeout(10):
        await guard(scope(), client.receive, client.send)
    return client


def test_a_body_in_parts_reaches_the_application_whole() -> None:
    async def run() -> None:
        app = App()
        client = await ask(Guard(app, LIMITS), Client([part(b"ab", more=True), part(b"cd")]))
        assert client.status == 200
        assert app.bodies == [b"abcd"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("messages", "length"),
    [([part(b"x" * 101)], None), ([part(b"x" * 60, more=True), part(b"x" * 60)], None), ([], 101)],
    ids=["at once", "in parts", "announced"],
)
def test_a_body_above_the_limit_is_refused_and_counted(messages: list[Message], length: int | None) -> None:
    async def run() -> None:
        app, refused = App(), list[int]()
        hung_up = asyncio.Event()
        hung_up.set()
        guard = Guard(app, LIMITS, refused.append)
        client = Client(messages, hangs_up=hung_up)
        async with asyncio.timeout(10):
            await guard(scope(length), client.receive, client.send)
        assert client.status == 413
        assert "larger than 100 bytes" in client.error
        assert (app.bodies, refused) == ([], [413])

    asyncio.run(run())


def test_a_body_that_does_not_come_is_given_up() -> None:
    async def run() -> None:
        app, refused = App(), list[int]()
        client = await ask(Guard(app, LIMITS, refused.append), Client([part(b"x", more=True)]))
        assert client.status == 408
        assert (app.bodies, refused) == ([], [408])

    asyncio.run(run())


def test_a_client_that_hangs_up_has_its_request_cancelled_and_its_bytes_given_back() -> None:
    async def run() -> None:
        app, hung_up = App(), asyncio.Event()
        app.go.clear()
        guard = Guard(app, LIMITS)
        gone = Client([part(b"x" * 90)], hangs_up=hung_up)
        asking = asyncio.ensure_future(ask(guard, gone))
        while not app.bodies:  # noqa: ASYNC110 - the application says nothing else
            await asyncio.sleep(0)
        hung_up.set()
        await asking
        assert app.cancelled == 1
        assert gone.sent == []

        app.go.set()
        assert (await ask(guard, Client([part(b"y" * 90)]))).status == 200

    asyncio.run(run())


def test_bodies_together_never_hold_more_than_the_limit() -> None:
    async def run() -> None:
        app = App()
        app.go.clear()
        guard, hung_up = Guard(app, LIMITS), asyncio.Event()
        hung_up.set()
        first = asyncio.ensure_future(ask(guard, Client([part(b"x" * 90)])))
        while not app.bodies:  # noqa: ASYNC110 - the application says nothing else
            await asyncio.sleep(0)
        second = await ask(guard, Client([part(b"y" * 90)], hangs_up=hung_up))
        assert second.status == 429
        app.go.set()
        assert (await first).status == 200
        assert (await ask(guard, Client([part(b"z" * 90)]))).status == 200

    asyncio.run(run())


def test_a_timeout_inside_the_application_is_no_slow_client() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError

    async def run() -> None:
        client = Client([part(b"x")])
        with pytest.raises(TimeoutError):
            await Guard(fails, LIMITS)(scope(), client.receive, client.send)
        assert client.sent == []

    asyncio.run(run())


def test_what_has_no_body_is_let_through() -> None:
    async def run() -> None:
        app = App()
        client = Client([part(b"")])
        await Guard(app, LIMITS)(scope(method="GET"), client.receive, client.send)
        assert client.status == 200

    asyncio.run(run())
