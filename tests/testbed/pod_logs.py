"""What a node's kubelet serves of its containers' logs: the API server asks here for `kubectl logs`."""

import contextlib
import ssl
import tempfile
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.testbed.certificates import server_certificate

Place = tuple[str, str]
"""Namespace and name of a pod."""
PATIENCE_SECONDS = 30.0


class PodLogs:
    """Lines of pods, followed until the pod ends; the API server does not ask for this server's authority."""

    def __init__(self) -> None:
        self._lines: defaultdict[Place, list[str]] = defaultdict(list)
        self._over: set[Place] = set()
        self._news = threading.Condition()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> int:
        """Serve on loopback; returns the port."""
        logs = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                logs._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the test's own output is enough."""

        with tempfile.TemporaryDirectory() as folder:
            pair = server_certificate(Path(folder), "kubelet", ("127.0.0.1",), ("localhost",))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, name="pod-logs", daemon=True).start()
        return int(self._server.server_address[1])

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def say(self, place: Place, line: str) -> None:
        """Have the container write a line."""
        with self._news:
            self._lines[place].append(line)
            self._news.notify_all()

    def end(self, place: Place) -> None:
        """The container has ended: whoever follows is told all and let go."""
        with self._news:
            self._over.add(place)
            self._news.notify_all()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        address = urlsplit(request.path)
        kind, *names = address.path.strip("/").split("/")
        if kind != "containerLogs" or len(names) != 3:
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Type", "text/plain")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        follow = parse_qs(address.query).get("follow") == ["true"]
        with contextlib.suppress(OSError):  # nobody follows any more
            self._tell(request, (names[0], names[1]), follow)
            request.wfile.write(b"0\r\n\r\n")

    def _tell(self, request: BaseHTTPRequestHandler, place: Place, follow: bool) -> None:
        told = 0
        while True:
            with self._news:
                if follow and place not in self._over and len(self._lines[place]) == told:
                    self._news.wait(PATIENCE_SECONDS)
                fresh, last = self._lines[place][told:], not follow or place in self._over
            told += len(fresh)
            for line in fresh:
                data = f"{line}\n".encode()
                request.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            request.wfile.flush()
            if last:
                return
