"""Calls to the API server: plain objects in and out, errors by what to do about them, writes behind a fence.

The official client's asyncio flavour does the transport, the credentials and their renewal. Its thousand
generated classes stay unused: objects are dicts here, as in YAML.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException

from tunesmith_operator.kinds import FIELD_MANAGER, LEASE, Kind, Object

READ_SECONDS = 20.0
LEASE_SECONDS = 4.0
"""Well below a lease's duration: a call that hangs must leave time for another."""
WRITE_SECONDS = 10.0
LIST_CHUNK = 50
"""Objects of one answer to a list. What hundreds take for a moment the process keeps for ever: what was
remembered meanwhile lies in between.
"""
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class ApiError(Exception):
    """The API server did not do what was asked.

    Attributes:
        status: HTTP's code; 0 when there was no answer.
        reason: metav1.Status's, like AlreadyExists.
        message: as the server wrote it.
        details: metav1.Status's.
    """

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any]) -> None:
        """As the attributes."""
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message, self.details = status, reason, message, details


class Conflict(ApiError):
    """The object is not the one that was thought of: another version or another uid."""


class AlreadyExists(ApiError):
    """An object of this name exists."""


class Refused(ApiError):
    """The server understood and will not: forbidden, a quota, an admission policy, an invalid object."""


class Unavailable(ApiError):
    """No answer, or one that says: later."""


class NotLeader(Exception):
    """This process may not write: it does not hold the lease, or not for long enough."""


def error_of(status: int, body: bytes | str) -> ApiError:
    """The error for an answer."""
    try:
        said = json.loads(body)
    except ValueError:
        said = {}
    if not isinstance(said, dict):
        said = {}
    reason, message = str(said.get("reason", "")), str(said.get("message") or "no explanation")
    if status == 409:
        kind: type[ApiError] = AlreadyExists if reason == "AlreadyExists" else Conflict
    elif status in (400, 403, 404, 405, 415, 422):
        kind = Refused
    else:
        kind = Unavailable
    return kind(status, reason, message, said.get("details") or {})


_behind_fence: ContextVar[bool] = ContextVar("behind_fence", default=False)


def fence_trace(may_write_for: Callable[[], float]) -> aiohttp.TraceConfig:
    """Asks the fence once more when a write has its connection, just before its first byte is sent.

    Between the first question and this moment the process may have waited for a connection, or stood still.
    """
    trace = aiohttp.TraceConfig()

    async def ask_again(*_: Any) -> None:
        if _behind_fence.get():
            may_write_for()

    trace.on_connection_reuseconn.append(ask_again)
    trace.on_connection_create_end.append(ask_again)
    return trace


class Kube:
    """The API server, as the operator sees it.

    Args:
        client: connected.
        may_write_for: the seconds for which this process may still write; raises NotLeader when it may not.
        on_call: told of each call: verb, plural, status (0 for none), seconds.
    """

    def __init__(
        self,
        client: ApiClient,
        may_write_for: Callable[[], float],
        on_call: Callable[[str, str, int, float], None] = lambda *_: None,
    ) -> None:
        """Nothing is called yet."""
        self._client, self._may_write_for, self._on_call = client, may_write_for, on_call

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object as etcd has it now, or None."""
        try:
            seconds = LEASE_SECONDS if kind is LEASE else READ_SECONDS
            return await self._call("get", "GET", kind, kind.path(namespace, name), seconds=seconds)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: Kind, namespace: str = "", **selectors: str) -> list[Object]:
        """The objects of a namespace, or of all: ``label_selector``, ``field_selector``."""
        query = {"limit": str(LIST_CHUNK)}
        query |= {_camel(key): value for key, value in selectors.items() if value}
        found: list[Object] = []
        while True:
            answer = await self._call("list", "GET", kind, kind.path(namespace), query)
            found += answer.get("items") or []
            if not (token := answer.get("metadata", {}).get("continue")):
                return found
            query["continue"] = token

    async def serves(self, kind: Kind) -> bool:
        """Whether the server has this kind."""
        root = "api" if "/" not in kind.api_version else "apis"
        try:
            found = await self._call("get", "GET", kind, f"/{root}/{kind.api_version}")
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return any(one["name"] == kind.plural for one in found.get("resources") or ())

    async def ask_for(self, kind: Kind, namespace: str = "") -> None:
        """Have the server list one object of a kind: an ApiError says that it cannot, or may not."""
        await self._call("list", "GET", kind, kind.path(namespace), {"limit": "1"})

    async def names(
        self, kind: Kind, namespace: str = "", label_selector: str = ""
    ) -> tuple[int, set[tuple[str, str]]]:
        """Namespace and name of each object, and the version of the list; without the objects themselves."""
        query = {"limit": str(LIST_CHUNK)} | ({"labelSelector": label_selector} if label_selector else {})
        found: set[tuple[str, str]] = set()
        while True:
            answer = await self._call("list", "GET", kind, kind.path(namespace), query, accept=_METADATA_ONLY)
            for one in answer.get("items") or ():
                found.add((one["metadata"]["namespace"], one["metadata"]["name"]))
            if not (token := answer["metadata"].get("continue")):
                return int(answer["metadata"]["resourceVersion"]), found
            query["continue"] = token

    async def create(self, kind: Kind, body: Object) -> Object:
        """Create an object; AlreadyExists when there is one of its name."""
        path = kind.path(body["metadata"]["namespace"])
        return await self._write("create", "POST", kind, path, body, {"fieldManager": FIELD_MANAGER})

    async def apply(self, kind: Kind, body: Object, subresource: str = "") -> Object:
        """Server-side apply: the fields in ``body`` become ours and what we no longer say goes.

        ``metadata.uid`` and ``metadata.resourceVersion``, where given, must be the present ones (Conflict).
        """
        path = kind.path(body["metadata"]["namespace"], body["metadata"]["name"], subresource)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._write("patch", "PATCH", kind, path, body, query, "application/apply-patch+yaml")

    async def patch(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        """Merge ``body`` into the object."""
        path = kind.path(namespace, name)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write("patch", "PATCH", kind, path, body, query, "application/merge-patch+json")

    async def replace(self, kind: Kind, body: Object) -> Object:
        """Write the whole object over the version that ``metadata.resourceVersion`` names.

        Not behind the fence: it is how the lease itself is written.
        """
        path = kind.path(body["metadata"]["namespace"], body["metadata"]["name"])
        return await self._call("update", "PUT", kind, path, body=body, seconds=LEASE_SECONDS)

    async def create_unfenced(self, kind: Kind, body: Object) -> Object:
        """Create an object before there is a leader: the lease itself."""
        path = kind.path(body["metadata"]["namespace"])
        return await self._call("create", "POST", kind, path, body=body, seconds=LEASE_SECONDS)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete the object of this uid and, in the background, what it owns; nothing when it is gone."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._write("delete", "DELETE", kind, kind.path(namespace, name), body)
        except Conflict:
            return  # Another object has its name by now.
        except Refused as error:
            if error.status != 404:
                raise

    async def _write(
        self,
        verb: str,
        method: str,
        kind: Kind,
        path: str,
        body: Object,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        seconds = min(WRITE_SECONDS, self._may_write_for())
        mark = _behind_fence.set(True)
        try:
            return await self._call(verb, method, kind, path, query, body, content_type, seconds)
        finally:
            _behind_fence.reset(mark)

    async def _call(
        self,
        verb: str,
        method: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        seconds: float = READ_SECONDS,
        accept: str = "application/json",
    ) -> Object:
        begun = time.monotonic()
        status = 0
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(*request, _request_timeout=seconds)
            content = await answer.read()
            status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError, ApiException) as error:
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            raise Unavailable(0, "NoAnswer", f"{verb} {path}: {said}", {}) from error
        finally:
            self._on_call(verb, kind.plural, status, time.monotonic() - begun)
        if status >= 400:
            raise error_of(status, content)
        loaded: Object = json.loads(content)
        return loaded


def _camel(words: str) -> str:
    first, *rest = words.split("_")
    return first + "".join(word.title() for word in rest)
