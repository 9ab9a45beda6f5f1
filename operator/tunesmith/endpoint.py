"""A predictor that runs somewhere, asked by HTTP in KServe's V1 protocol."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tunesmith_api.reasons import DigestMismatch, TunesmithError
from tunesmith_package.preprocess import ImageInvalid

SCHEMES = ("http://", "https://")
TIMEOUT_SECONDS = 60.0
MOST_BYTES = 50_000_000
"""Of an answer: whoever sends more is no predictor."""
_POLL_SECONDS = 0.2
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Answer:
    """What a model says of one image.

    Attributes:
        classes: pairs of label and probability, the most probable first.
        overlay: a PNG of what spoke for the first class, where it was asked for.
    """

    classes: tuple[tuple[str, float], ...]
    overlay: bytes | None = None


class Endpoint:
    """The one model that a predictor serves.

    Attributes:
        name: of the model.
        verified: whether it passed its gates.
    """

    def __init__(
        self,
        url: str,
        *,
        digest: str | None = None,
        wait_seconds: float = 0.0,
        gateway: str = "",
        headers: Mapping[str, str] | None = None,
        advice: str = "",
    ) -> None:
        """Find out what is served there.

        Args:
            url: ``http://HOST:PORT``, or that with a path behind which the predictor lies.
            digest: of the package that it must serve.
            wait_seconds: how long it may take until it is there and ready.
            gateway: ``HOST[:PORT]`` that is connected to instead of the url's, which it knows by name.
            headers: that every request has.
            advice: what to do when nothing answers there, or something else.

        Raises:
            DigestMismatch: it serves another package.
            TunesmithError: nothing answers, or it is no predictor.
        """
        self._url, self._advice = url.rstrip("/"), advice
        self._address, self._headers = self._url, dict(headers or {})
        if gateway:
            parts = urlsplit(self._url)
            self._address = parts._replace(netloc=gateway).geturl()
            self._headers["host"] = parts.netloc
            self._url = f"{self._url} (through {gateway})"
        # A proxy knows nothing of what runs on this machine.
        direct = [urllib.request.ProxyHandler({})] if urlsplit(self._address).hostname in _HERE else []
        self._opener = urllib.request.build_opener(*direct)
        self.name, known = self._about(time.monotonic() + wait_seconds)
        self.verified = bool(known.get("verified"))
        if digest not in (None, known.get("digest")):
            raise DigestMismatch(f"{self._url} serves {known.get('digest')}, not {digest}.", advice)

    def answer(self, image: bytes, *, top: int | None, explain: bool) -> Answer:
        """Ask what an encoded image shows, and for how many classes; for all when None.

        Raises:
            ImageInvalid: the model cannot use the image.
            TunesmithError: the predictor does not answer.
        """
        verb = "explain" if explain else "predict"
        query = "" if top is None else f"?{urlencode({'top': top})}"
        path = f"/v1/models/{quote(self.name, safe='')}:{verb}{query}"
        try:
            document = self._asked(path, image)
        except urllib.error.HTTPError as error:
            message = _reason(error)
            if error.code in (400, 413, 415):
                raise ImageInvalid("unreadable", message, "") from error
            raise TunesmithError(
                f"{self._url} answers {error.code}: {message}", "Try again, or look into the predictor's log."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from error
        try:
            [one] = document["predictions"]
            classes = tuple((str(each["label"]), float(each["probability"])) for each in one["classes"])
            if not classes:
                raise ValueError("no classes")
            return Answer(classes, base64.b64decode(one["explanation"]["png"]) if explain else None)
        except (KeyError, ValueError, TypeError, binascii.Error) as error:
            raise self._stranger() from error

    def _about(self, deadline: float) -> tuple[str, Mapping[str, Any]]:
        """The model's name, and what its metadata tell of it, once it is ready."""
        while True:
            try:
                name = str(self._asked("/v1/models")["models"][0])
                one = f"/v2/models/{quote(name, safe='')}"
                self._asked(f"{one}/ready")
                return name, dict(self._asked(one)["parameters"])
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise self._stranger() from error
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code == 404:
                    raise self._stranger() from error
                if time.monotonic() > deadline:
                    raise self._silent(error) from error
            time.sleep(_POLL_SECONDS)

    def _asked(self, path: str, body: bytes | None = None) -> Mapping[str, Any]:
        headers = {} if body is None else {"content-type": "application/octet-stream"}
        request = urllib.request.Request(self._address + path, body, self._headers | headers)
        with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            data = answer.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise self._stranger()
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError("no object")
        return document

    def _silent(self, error: Exception) -> TunesmithError:
        reason = getattr(error, "reason", None) or error
        return TunesmithError(
            f"Nothing answers at {self._url}: {reason}.",
            self._advice or "Start it with `tunesmith serve MODEL`, or wait for it with --wait SECONDS.",
        )

    def _stranger(self) -> TunesmithError:
        return TunesmithError(
            f"What answers at {self._url} is no predictor of Tunesmith.",
            self._advice or "Give the address without a path: http://HOST:PORT.",
        )


def _reason(error: urllib.error.HTTPError) -> str:
    """The sentence in an error's body, or the status's own words."""
    try:
        return str(json.loads(error.read(100_000))["error"])
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)
