"""What went in: the split and the classes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tunesmith_trainer.publish.report import svg
from tunesmith_trainer.publish.report.data import ClassCount
from tunesmith_trainer.publish.report.formats import count, percent, plural

MOST_BARS = 40
"""More classes than this are drawn as a skyline, largest first, instead of one bar with its name each."""
MOST_COLUMNS = 200
"""More classes than this have no columns of their own in the skyline, only its outline."""


def split_bar(splits: Sequence[tuple[str, int]], width: float) -> Markup:
    """One bar cut into train, validation and test, with a legend under it.

    Args:
        splits: (name, images).
        width: Natural width in pixels.
    """
    total = sum(images for _, images in splits) or 1
    shapes: list[Markup] = []
    left = 0.0
    for name, images in splits:
        part = images / total * width
        shapes.append(
            svg.rect(
                left,
                0,
                part - 2,
                26,
                f"split-{name}",
                f"{name}: {count(images)} images, {percent(images / total)}",
            )
        )
        left += part
    at = 0.0
    for name, images in splits:
        legend = f"{name} {count(images)}"
        shapes.append(svg.rect(at, 40, 10, 10, f"split-{name}"))
        shapes.append(svg.text(at + 15, 49, legend))
        at += 40 + len(legend) * 12 * svg.CHARACTER_WIDTH
    spoken = ", ".join(f"{count(images)} {name}" for name, images in splits)
    return svg.drawing(width, 56, f"Images by split: {spoken}.", *shapes)


def class_counts(classes: Sequence[ClassCount], width: float) -> Markup:
    """Images of each class, stacked by split: bars with names, or a skyline when there are many classes."""
    return _skyline(classes, width) if len(classes) > MOST_BARS else _bars(classes, width)


def _splits(counts: ClassCount) -> tuple[tuple[str, int], ...]:
    return (("train", counts.train), ("validation", counts.validation), ("test", counts.test))


def _tip(counts: ClassCount) -> str:
    parts = ", ".join(f"{images} {name}" for name, images in _splits(counts))
    return f"{counts.name}: {plural(counts.total, 'image')} ({parts})"


def _bars(classes: Sequence[ClassCount], width: float) -> Markup:
    longest = max((len(counts.name) for counts in classes), default=1)
    row, number_width = 22.0, 44.0
    label_width = min(longest * 12 * svg.CHARACTER_WIDTH + 16, 150.0, width * 0.36)
    most = max((counts.total for counts in classes), default=1) or 1
    scale = svg.Scale(0, most, 0, width - label_width - number_width)
    shapes: list[Markup] = []
    for index, counts in enumerate(classes):
        top = index * row
        shapes.append(
            svg.text(label_width - 10, top + 15, svg.shorten(counts.name, label_width - 12), anchor="end")
        )
        left, parts = label_width, []
        for name, images in _splits(counts):
            parts.append(svg.rect(left, top + 4, scale(images) - 1, 14, f"split-{name}"))
            left += scale(images)
        shapes.append(svg.element("g", svg.element("title", _tip(counts)), *parts))
        shapes.append(svg.text(left + 7, top + 15, count(counts.total), class_="m num"))
    label = f"Images of each of {plural(len(classes), 'class', 'classes')}, stacked by split."
    return svg.drawing(width, max(len(classes), 1) * row + 4, label, *shapes)


def _skyline(classes: Sequence[ClassCount], width: float) -> Markup:
    height, bottom, left = 150.0, 20.0, 40.0
    ordered = sorted(classes, key=lambda counts: -counts.total)
    most = ordered[0].total or 1
    scale = svg.Scale(0, most, height - bottom, 12)
    pitch = (width - left) / len(ordered)
    shapes: list[Markup] = []
    for tick in scale.ticks(4):
        shapes.append(svg.line(left, scale(tick), width, scale(tick), "grid"))
        shapes.append(svg.text(left - 6, scale(tick) + 4, count(round(tick)), anchor="end", class_="m num"))
    if len(ordered) > MOST_COLUMNS:
        shapes.extend(_outlines(ordered, scale, left, pitch))
    else:
        shapes.extend(
            _column(counts, scale, left + index * pitch, pitch) for index, counts in enumerate(ordered)
        )
    half = (width - left) / 2
    shapes.append(svg.text(left, height - 4, svg.shorten(f"largest: {ordered[0].name}", half), class_="m"))
    shapes.append(
        svg.text(
            width, height - 4, svg.shorten(f"smallest: {ordered[-1].name}", half), anchor="end", class_="m"
        )
    )
    label = (
        f"Images of each of {len(classes)} classes, from {ordered[0].name} with {ordered[0].total} "
        f"to {ordered[-1].name} with {ordered[-1].total}."
    )
    return svg.drawing(width, height, label, *shapes)


def _column(counts: ClassCount, scale: svg.Scale, x: float, pitch: float) -> Markup:
    base, parts = 0, []
    for name, images in _splits(counts):
        tall = scale(base) - scale(base + images)
        parts.append(svg.rect(x, scale(base + images), max(pitch - 0.6, 0.6), tall, f"split-{name}"))
        base += images
    return svg.element("g", svg.element("title", _tip(counts)), *parts)


def _outlines(ordered: Sequence[ClassCount], scale: svg.Scale, left: float, pitch: float) -> list[Markup]:
    """The same columns as one outline per split, the tallest behind: a thousand classes take no more room."""
    shapes: list[Markup] = []
    for level, name in reversed(list(enumerate(("train", "validation", "test"), start=1))):
        points = [(left, scale(0))]
        for index, counts in enumerate(ordered):
            top = scale(sum(images for _, images in _splits(counts)[:level]))
            points.extend(((left + index * pitch, top), (left + (index + 1) * pitch, top)))
        points.append((left + len(ordered) * pitch, scale(0)))
        shapes.append(svg.element("path", d=svg.path(points), class_=f"area split-{name}"))
    return shapes
