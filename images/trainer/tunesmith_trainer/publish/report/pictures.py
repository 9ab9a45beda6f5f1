"""Pictures for a page of limited size: shrunk, stripped of metadata, embedded until the budget is spent."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup
from PIL import Image

from tunesmith_trainer.publish.report.data import ReportData

MOST_PIXELS = 50_000_000
MOST_MISTAKES = 24
MOST_SUSPECTS = 48
MOST_SAMPLES = 100
MOST_EVIDENCE = 12

MISTAKE_SIDE, SUSPECT_SIDE, SAMPLE_SIDE, EVIDENCE_SIDE = 208, 144, 120, 96

Key = tuple[str | int, ...]
"""Where a picture belongs: ("mistake", 3), ("activation", 3), ("suspect", 0), ("sample", 5), ("evidence", 2,
7)."""


@dataclass(frozen=True)
class Wanted:
    """A picture that the page would like to show, at most `side` pixels wide and high."""

    key: Key
    data: bytes
    side: int


def wanted_pictures(data: ReportData) -> tuple[Wanted, ...]:
    """All pictures, the most telling first: what does not fit into the page is cut from the end."""
    listed: list[tuple[Key, bytes | None, int]] = []
    for index, mistake in enumerate(data.mistakes[:MOST_MISTAKES]):
        listed.append((("mistake", index), mistake.picture, MISTAKE_SIDE))
        listed.append((("activation", index), mistake.activation, MISTAKE_SIDE))
    for index, suspect in enumerate(data.suspects[:MOST_SUSPECTS]):
        listed.append((("suspect", index), suspect.picture, SUSPECT_SIDE))
    for index, sample in enumerate(data.dataset.samples[:MOST_SAMPLES]):
        listed.append((("sample", index), sample.picture, SAMPLE_SIDE))
    for place in range(MOST_EVIDENCE):
        for index, finding in enumerate(data.dataset.findings):
            if place < len(finding.evidence):
                listed.append((("evidence", index, place), finding.evidence[place].picture, EVIDENCE_SIDE))
    return tuple(Wanted(key, picture, side) for key, picture, side in listed if picture)


def embed(wanted: Iterable[Wanted], budget: int) -> Mapping[Key, Markup]:
    """Turn pictures into data: URIs until `budget` bytes are spent; unreadable ones are left out.

    Args:
        wanted: In order of importance.
        budget: Bytes that all URIs together may take.
    """
    embedded: dict[Key, Markup] = {}
    for each in wanted:
        shrunk = shrink(each.data, each.side)
        if shrunk is None:
            continue
        uri = Markup("data:image/jpeg;base64,") + base64.b64encode(shrunk).decode("ascii")
        if len(uri) > budget:
            break
        budget -= len(uri)
        embedded[each.key] = uri
    return embedded


def shrink(data: bytes, side: int, quality: int = 80) -> bytes | None:
    """Re-encode a JPEG or PNG as a JPEG of at most `side` x `side` pixels; None when it cannot be read.

    Re-encoding also drops whatever else the file carries: EXIF with the place of a photo, comments, profiles.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                if image.width * image.height > MOST_PIXELS:
                    return None
                image.draft("RGB", (side, side))
                picture = image.convert("RGB")
                picture.thumbnail((side, side))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality, optimize=True)
    return encoded.getvalue()
