"""A real predictor, asked what nobody should ask: always a 4xx with a sentence, and others are unharmed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import resource
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from tests.testbed.predictors import NAME, Server, running_predictor
from tests.testbed.tiny_package import encoded, picture

BOMB = encoded(Image.new("1", (20_000, 20_000)))
MOVING = encoded(
    Image.new("RGB", (8, 8)), save_all=True, append_images=[Image.new("RGB", (8, 8), "red")], duration=50
)


@pytest.mark.parametrize(
    ("image", "status", "words"),
    [
        pytest.param(b"", 400, "is empty", id="nothing"),
        pytest.param(b"hello", 400, "not an image", id="text"),
        pytest.param(picture("red", (300, 300), "JPEG")[:400], 400, "", id="truncated"),
        pytest.param(picture("red", format="GIF"), 400, "not accepted here", id="another format"),
        pytest.param(MOVING, 400, "animated", id="animated"),
        pytest.param(BOMB, 413, "pixels", id="a bomb"),
        pytest.param(b"\xff\xd8\xff" + b"x" * 1_000_000, 413, "larger than", id="too many bytes"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused(
    server: Server, image: bytes, status: int, words: str
) -> None:
    reply = server.predict(image)
    assert reply.status == status
    assert words in reply.json["error"]
    assert server.predict(picture("red")).status == 200


@pytest.mark.parametrize(
    ("path", "body", "kind", "status"),
    [
        ("/v1/models/other:predict", b"x", "image/png", 404),
        ("/v2/models/other/infer", b"{}", "application/json", 404),
        (f"/v1/models/{NAME}:predict", b"x", "text/html", 415),
        (f"/v1/models/{NAME}:predict", b"{", "application/json", 400),
        (f"/v1/models/{NAME}:predict", b"[" * 500_000, "application/json", 400),
        (f"/v2/models/{NAME}/infer", b'{"inputs": 1}', "application/json", 400),
        (f"/v1/models/{NAME}:predict?top=x", picture("red"), "image/png", 400),
        (f"/v1/models/{NAME}:predict?class=pink", picture("red"), "image/png", 400),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    server: Server, path: str, body: bytes, kind: str, status: int
) -> None:
    reply = server.request("POST", path, body, {"content-type": kind})
    assert reply.status == status
    assert len(reply.json["error"]) > 20


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    answer = io.BytesIO()
    while part := connection.recv(65_536):
        answer.write(part)
    return answer.getvalue()


def test_a_body_that_never_ends_is_given_up_and_the_others_are_answered(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=20) as slow:
        slow.sendall(
            f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n"
            "content-length: 1000\r\n\r\n".encode()
        )
        slow.sendall(b"x")
        assert server.predict(picture("red")).status == 200
        assert received(slow).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_headers_that_never_end_are_given_up_and_the_others_are_answered(server: Server, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=20) as slow:
        slow.sendall(sent)
        assert server.predict(picture("red")).status == 200
        assert received(slow).startswith(b"HTTP/1.1 408")


def test_headers_that_are_slow_after_a_first_request_are_given_up_too(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=20) as slow:
        slow.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nx-slow: ")
        answers = received(slow)
    assert answers.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answers


def test_headers_without_bound_are_refused_before_they_fill_the_memory(server: Server) -> None:
    before = resident_mib(server.process.pid)
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(2_000):
                client.sendall(b"x" * 65_536)
        with contextlib.suppress(ConnectionError):
            assert received(client).startswith(b"HTTP/1.1 431")
    assert server.predict(picture("red")).status == 200
    assert resident_mib(server.process.pid) < before + 50


def test_an_announced_body_that_is_too_large_is_refused_before_it_comes(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=20) as client:
        client.sendall(
            f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nhost: x\r\n".encode()
            + b"content-length: 99999999999\r\n\r\n"
        )
        assert client.recv(65_536).startswith(b"HTTP/1.1 413")


def test_one_bad_image_among_several_refuses_them_all_and_says_which(server: Server) -> None:
    body = {"instances": [{"b64": ""}, {"b64": "aGVsbG8="}]}
    reply = server.request(
        "POST", f"/v1/models/{NAME}:predict", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    assert reply.status == 400
    assert "Image 0:" in reply.json["error"] or "Image 1:" in reply.json["error"]


def test_requests_beyond_the_queue_are_told_to_come_back_and_the_rest_is_answered(server: Server) -> None:
    photo = encoded(Image.effect_noise((1_500, 1_500), 80).convert("RGB"), "JPEG", quality=30)
    assert len(photo) < 1_000_000

    with ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda _: server.predict(photo, kind="image/jpeg"), range(600)))

    codes = [reply.status for reply in replies]
    assert set(codes) <= {200, 429}
    assert codes.count(200) > 100
    started = time.monotonic()
    assert server.predict(picture("red")).status == 200
    assert time.monotonic() - started < 20


AT_ONCE = 10_000


async def burst(port: int, request: bytes, count: int) -> Counter[int]:
    """Send a request on each of so many connections of its own at once; the answers by their status."""

    async def ask() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status

    return Counter(await asyncio.gather(*(ask() for _ in range(count))))


def resident_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1_024


def test_ten_thousand_requests_at_once_are_answered_or_told_to_come_back_in_bounded_memory(
    package_directory: Path, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = AT_ONCE + 1_000 if hard == resource.RLIM_INFINITY else min(hard, AT_ONCE + 1_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    count = min(AT_ONCE, most - 500)
    image = picture("red")
    head = f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n"
    request = f"{head}content-length: {len(image)}\r\n\r\n".encode() + image
    with running_predictor(package_directory, tmp_path / "log") as server:
        assert asyncio.run(burst(server.http_port, request, 50))[200] == 50
        before = resident_mib(server.process.pid)
        codes = asyncio.run(burst(server.http_port, request, count))
        assert set(codes) <= {200, 429}
        assert codes.total() == count
        assert resident_mib(server.process.pid) - before < 300
        assert server.predict(image).status == 200
