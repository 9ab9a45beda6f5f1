"""What the checks found, with a few of the images as evidence."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

MOST_EVIDENCE = 12
"""How many images of one finding are kept as evidence."""
THUMBNAIL_SIDE = 96
"""Longest side of a thumbnail in pixels."""


@dataclass(frozen=True)
class Evidence:
    """One image that a check found.

    Attributes:
        path: where it lies, relative to the dataset's root.
        detail: what about it, like its twin's path; may be empty.
        thumbnail_jpeg: a small JPEG, or None where the image cannot be decoded.
    """

    path: str
    detail: str = ""
    thumbnail_jpeg: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, the thumbnail in base64."""
        picture = None if self.thumbnail_jpeg is None else base64.b64encode(self.thumbnail_jpeg).decode()
        return {"path": self.path, "detail": self.detail, "thumbnail": picture}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        picture = value["thumbnail"]
        return cls(value["path"], value["detail"], None if picture is None else base64.b64decode(picture))


@dataclass(frozen=True)
class Finding:
    """What one check found and what its policy made of it.

    Attributes:
        check: the check's name, like ``near-duplicate``.
        policy: the policy in force, in the words of spec.dataset.checks.
        count: images (or classes, where the sentence says so).
        sentence: what was found and what was done.
        evidence: at most `MOST_EVIDENCE` of the images.
    """

    check: str
    policy: str
    count: int
    sentence: str
    evidence: tuple[Evidence, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "check": self.check,
            "policy": self.policy,
            "count": self.count,
            "sentence": self.sentence,
            "evidence": [each.to_json() for each in self.evidence],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        evidence = tuple(Evidence.from_json(each) for each in value["evidence"])
        return cls(value["check"], value["policy"], value["count"], value["sentence"], evidence)


def thumbnail(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A JPEG of at most `THUMBNAIL_SIDE` pixels of an image, uint8 ``[S, S, 3]``."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
