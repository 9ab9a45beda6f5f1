"""An API server that is played, for tests of its clients: our two kinds, merge patches, watches."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]
NAMESPACE = "vision"


class PlayedApi:
    """What it holds and what it was asked.

    Attributes:
        objects: by plural and name.
        patches: content type and body of each patch.
        upcoming: statuses that the next watch brings, one after the other.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.patches: list[tuple[str, Object]] = []
        self.upcoming: list[Object] = []

    def put(self, plural: str, body: Object) -> None:
        """Hold an object, in place of one of its name."""
        self.objects[plural, body["metadata"]["name"]] = body


def merged(old: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return patch
    found = dict(old) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


@contextmanager
def played_api(folder: Path) -> Iterator[tuple[PlayedApi, Path]]:
    """A server on loopback, and a kubeconfig that leads to it."""
    api = PlayedApi()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "played",
                "clusters": [
                    {"name": "played", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
                ],
                "users": [{"name": "somebody", "user": {"token": "played"}}],
                "contexts": [
                    {
                        "name": "played",
                        "context": {"cluster": "played", "user": "somebody", "namespace": NAMESPACE},
                    }
                ],
            }
        )
    )
    try:
        yield api, path
    finally:
        server.shutdown()
        server.server_close()


def _handler(api: PlayedApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            plural, name, query = self._asked()
            if query.get("watch"):
                self._watch(plural, query["fieldSelector"][0].removeprefix("metadata.name="))
            elif name:
                self._answer(api.objects.get((plural, name)))
            else:
                items = [one for (kind, _), one in sorted(api.objects.items()) if kind == plural]
                self._answer({"kind": "List", "items": items})

        def do_PATCH(self) -> None:
            plural, name, _ = self._asked()
            body = yaml.safe_load(self.rfile.read(int(self.headers["content-length"])))
            kind = self.headers["content-type"]
            api.patches.append((kind, body))
            old = api.objects.get((plural, name))
            if old is None and "apply-patch" not in kind:
                self._answer(None)
                return
            new = merged(old or {}, body)
            generation = (old or {}).get("metadata", {}).get("generation", 0) + 1
            new["metadata"] = {**new["metadata"], "generation": generation}
            api.put(plural, new)
            self._answer(new)

        def _asked(self) -> tuple[str, str, dict[str, list[str]]]:
            """Plural, name and query of /apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL[/NAME]."""
            parts = urlsplit(self.path)
            plural, _, name = parts.path.partition(f"/namespaces/{NAMESPACE}/")[2].partition("/")
            return plural, name, parse_qs(parts.query)

        def _watch(self, plural: str, name: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            while api.upcoming:
                found = api.objects[plural, name]
                status = {"observedGeneration": found["metadata"]["generation"], **api.upcoming.pop(0)}
                api.put(plural, {**found, "status": status})
                event = {"type": "MODIFIED", "object": api.objects[plural, name]}
                self.wfile.write(json.dumps(event).encode() + b"\n")

        def _answer(self, body: Object | None) -> None:
            found = body or {"kind": "Status", "message": "not found", "reason": "NotFound"}
            data = json.dumps(found).encode()
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    return Handler
