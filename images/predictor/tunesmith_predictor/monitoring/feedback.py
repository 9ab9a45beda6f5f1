"""True labels for past answers, and the accuracy that follows; all of it bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith_package.intervals import wilson_interval
from tunesmith_predictor.questions import MOST_IMAGES
from tunesmith_predictor.refusals import BadRequest, TooLarge

REMEMBERED = 10_000
"""Requests that feedback can be given on; older ones are forgotten."""
WINDOW = 1_000
"""Images with feedback that accuracy is taken over: the last ones."""
MOST_ENTRIES = 1_000
"""In one body."""
_HOW = 'Send {"requestId": "...", "label": "..."}, or a list of these; "image" says which of several.'


@dataclass(frozen=True)
class Entry:
    """What a client says of one image: its request, its place there, and its true class."""

    request_id: str
    image: int
    label: str


def read_entries(document: object) -> list[Entry]:
    """Understand a body.

    Raises:
        BadRequest: it is not what it should be.
        TooLarge: too many at once.
    """
    raw = document if isinstance(document, list) else [document]
    if len(raw) > MOST_ENTRIES:
        raise TooLarge(f"The body holds {len(raw)} labels; send at most {MOST_ENTRIES} at once.")
    entries = []
    for index, one in enumerate(raw):
        given = one if isinstance(one, dict) else {}
        request_id, label, image = given.get("requestId"), given.get("label"), given.get("image", 0)
        if not (isinstance(request_id, str) and isinstance(label, str)):
            raise BadRequest(f"Entry {index} lacks a requestId or a label. {_HOW}")
        if not isinstance(image, int) or not 0 <= image < MOST_IMAGES:
            raise BadRequest(f"Entry {index} names no image: a number from 0 on. {_HOW}")
        entries.append(Entry(request_id, image, label))
    return entries


class Feedback:
    """Remembers what was answered, and compares it with what was true."""

    def __init__(self, labels: Sequence[str], remembered: int = REMEMBERED, window: int = WINDOW) -> None:
        """Know nothing yet."""
        self._labels = labels
        self._index = {label: number for number, label in enumerate(labels)}
        self._remembered, self._most = remembered, window
        self._answered: OrderedDict[str, list[int]] = OrderedDict()
        self._told: OrderedDict[tuple[str, int], tuple[int, int]] = OrderedDict()
        self.taken = self.unknown_requests = self.unknown_labels = 0

    def remember(self, request_id: str, predicted: list[int]) -> None:
        """Take note of what was said of the images of a request: their classes' numbers."""
        self._answered[request_id] = predicted
        self._answered.move_to_end(request_id)
        if len(self._answered) > self._remembered:
            self._answered.popitem(last=False)

    def take(self, entries: Sequence[Entry]) -> dict[str, int]:
        """Take labels in; those that fit nothing are counted. A later one replaces an earlier."""
        before = (self.taken, self.unknown_requests, self.unknown_labels)
        for one in entries:
            predicted = self._answered.get(one.request_id)
            if predicted is None or one.image >= len(predicted):
                self.unknown_requests += 1
            elif one.label not in self._index:
                self.unknown_labels += 1
            else:
                self._take(one, predicted[one.image])
        taken, requests, labels = (
            now - then
            for now, then in zip(
                (self.taken, self.unknown_requests, self.unknown_labels), before, strict=True
            )
        )
        return {"taken": taken, "unknownRequests": requests, "unknownLabels": labels}

    def _take(self, one: Entry, predicted: int) -> None:
        key = (one.request_id, one.image)
        self._told[key] = (predicted, self._index[one.label])
        self._told.move_to_end(key)
        if len(self._told) > self._most:
            self._told.popitem(last=False)
        self.taken += 1

    def accuracy(self) -> tuple[float, int]:
        """The share of right answers, and over how many images; 0 of 0 without feedback."""
        right = sum(predicted == true for predicted, true in self._told.values())
        return (right / len(self._told) if self._told else 0.0), len(self._told)

    def document(self) -> dict[str, Any]:
        """What is known, with intervals of 95 % (Wilson 1927)."""
        classes = len(self._labels)
        pairs = np.array(list(self._told.values()), np.int64).reshape(-1, 2)
        right = pairs[pairs[:, 0] == pairs[:, 1], 1]
        hits = np.bincount(right, minlength=classes).astype(np.float64)
        images = np.bincount(pairs[:, 1], minlength=classes).astype(np.float64)
        low, high = wilson_interval(np.append(hits, hits.sum()), np.append(images, images.sum()))
        accuracy, samples = self.accuracy()
        told: dict[str, Any] = {
            "samples": samples,
            "window": self._most,
            "taken": self.taken,
            "unknownRequests": self.unknown_requests,
            "unknownLabels": self.unknown_labels,
        }
        if not samples:
            return {**told, "message": "No feedback yet: POST /feedback with a requestId and its true label."}
        per_class = [
            {
                "label": self._labels[k],
                "samples": int(images[k]),
                "recall": float(hits[k] / images[k]),
                "low": float(low[k]),
                "high": float(high[k]),
            }
            for k in np.flatnonzero(images).tolist()
        ]
        whole = {"value": accuracy, "low": float(low[-1]), "high": float(high[-1])}
        return {**told, "accuracy": whole, "perClass": per_class}
