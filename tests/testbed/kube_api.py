"""The API server as a test's administrator sees it: plain objects by their addresses, synchronously."""

import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from tunesmith_operator.kinds import Kind

T = TypeVar("T")
Object = dict[str, Any]


class Api:
    """Connected by a kubeconfig with a token; errors are httpx.HTTPStatusError."""

    def __init__(self, kubeconfig: Path) -> None:
        content = yaml.safe_load(kubeconfig.read_text())
        cluster = content["clusters"][0]["cluster"]
        self._client = httpx.Client(
            base_url=cluster["server"],
            headers={"Authorization": f"Bearer {content['users'][0]['user']['token']}"},
            verify=ssl.create_default_context(cafile=cluster["certificate-authority"]),
            timeout=30,
        )

    def close(self) -> None:
        self._client.close()

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        answer = self._client.get(kind.path(namespace, name))
        return None if answer.status_code == 404 else _object(answer)

    def list(self, kind: Kind, namespace: str, **query: str) -> list[Object]:
        items: list[Object] = _object(self._client.get(kind.path(namespace), params=query))["items"]
        return items

    def create(self, kind: Kind, body: Object) -> Object:
        return _object(self._client.post(kind.path(body["metadata"]["namespace"]), json=body))

    def merge(self, kind: Kind, namespace: str, name: str, body: Object, subresource: str = "") -> Object:
        path = kind.path(namespace, name, subresource)
        headers = {"Content-Type": "application/merge-patch+json"}
        return _object(self._client.patch(path, content=json.dumps(body), headers=headers))

    def apply(
        self, kind: Kind, body: Object, manager: str, subresource: str = "", *, force: bool = False
    ) -> Object:
        metadata = body["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": manager, "force": str(force).lower()}
        headers = {"Content-Type": "application/apply-patch+yaml"}
        return _object(self._client.patch(path, content=json.dumps(body), headers=headers, params=query))

    def delete(self, kind: Kind, namespace: str, name: str, **options: Any) -> None:
        answer = self._client.request("DELETE", kind.path(namespace, name), json=options)
        if answer.status_code != 404:
            _object(answer)

    def post(self, path: str, body: Object) -> Object:
        return _object(self._client.post(path, json=body))

    def put(self, path: str, body: Object) -> Object:
        return _object(self._client.put(path, json=body))

    def read(self, path: str, **query: str) -> Object:
        return _object(self._client.get(path, params=query))

    def watch(self, path: str, **query: str) -> Iterator[tuple[str, Object]]:
        """Events from now on (or from `resourceVersion`), until the server ends the stream."""
        timeout = httpx.Timeout(10, read=None)
        with self._client.stream("GET", path, params={"watch": "true", **query}, timeout=timeout) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                event = json.loads(line)
                yield event["type"], event["object"]


def _object(answer: httpx.Response) -> Object:
    if answer.is_error:
        raise httpx.HTTPStatusError(
            f"{answer.status_code}: {answer.text[:1_000]}", request=answer.request, response=answer
        )
    content: Object = answer.json()
    return content


def wait_for(look: Callable[[], T | None], what: str, seconds: float = 20.0, pause: float = 0.05) -> T:
    """The first value that is true of what `look` returns; an AssertionError with the last one otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s; last seen {found!r}"
        time.sleep(pause)
