"""How good the result is: confusion matrix and reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith_trainer.publish.report import svg
from tunesmith_trainer.publish.report.data import ReliabilityBin
from tunesmith_trainer.publish.report.formats import count, known, percent
from tunesmith_trainer.publish.report.palette import heat_step

MOST_NUMBERED = 30
"""With more classes than this the cells are too small for their counts; colour and tooltips remain."""


@dataclass(frozen=True)
class _Grid:
    """Sizes in pixels by the number of classes, so that names and cells stay readable."""

    cell: float
    font: float
    label: float

    @property
    def turn(self) -> int:
        """By how many degrees the names of columns are turned: upright where cells are narrow."""
        return 52 if self.cell > 20 else 90

    @classmethod
    def of(cls, names: Sequence[str]) -> _Grid:
        cell, font, room = next(sizes for most, *sizes in _SIZES if len(names) <= most)
        longest = max((len(name) for name in names), default=1)
        return cls(cell, font, min(room, longest * font * svg.CHARACTER_WIDTH + 12))


_SIZES: tuple[tuple[float, float, float, float], ...] = (
    (4, 64, 12, 130),
    (8, 44, 12, 120),
    (16, 32, 12, 110),
    (MOST_NUMBERED, 25, 11, 105),
    (60, 12, 10, 92),
    (math.inf, 8.6, 8.6, 78),
)
"""Up to how many classes: the sides of a cell, of its font and of the longest name."""


def confusion_matrix(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> Markup:
    """Given labels down, predicted labels across; each row is coloured by its fractions.

    The diagonal (right) and the rest (mistakes) have hues of their own; up to `MOST_NUMBERED` classes every
    cell says its count.

    Args:
        names: K names in the order of rows and columns.
        confusion: K rows of K counts.
    """
    grid = _Grid.of(names)
    side = grid.cell * len(names)
    head = grid.label * (1 if grid.turn == 90 else 0.8) + 18
    left, top = grid.label + 18, head
    shapes = [svg.rect(left, top, side, side, "nought"), *_axis_names(left, top, side)]
    for index, name in enumerate(names):
        middle = (index + 0.5) * grid.cell
        label = svg.shorten(name, grid.label - 8, grid.font)
        shapes.append(
            svg.text(left - 6, top + middle + grid.font * 0.36, label, anchor="end", font_size=grid.font)
        )
        x, y = left + middle + grid.font * 0.36, top - 6
        turn = f"rotate({-grid.turn} {x:.1f} {y:.1f})"
        shapes.append(svg.text(x, y, label, font_size=grid.font, transform=turn))
    if len(names) > MOST_NUMBERED:
        for tenth in range(10, len(names), 10):
            at = tenth * grid.cell
            shapes.append(svg.line(left + at, top, left + at, top + side, "grid"))
            shapes.append(svg.line(left, top + at, left + side, top + at, "grid"))
    for given, row in enumerate(confusion):
        total = sum(row)
        for predicted, images in enumerate(row):
            if images or len(names) <= MOST_NUMBERED:
                x, y = left + predicted * grid.cell, top + given * grid.cell
                shapes.extend(_cell(x, y, grid, names, (given, predicted), (images, total)))
    right = sum(confusion[index][index] for index in range(len(names)))
    images = sum(map(sum, confusion))
    label = f"Confusion matrix of {len(names)} classes: {right} of {images} images on the diagonal."
    overhang = 4 if grid.turn == 90 else grid.label * 0.62
    return svg.drawing(left + side + overhang, top + side + 6, label, *shapes, class_="confusion")


def _axis_names(left: float, top: float, side: float) -> list[Markup]:
    middle = top + side / 2
    return [
        svg.text(12, middle, "given", anchor="middle", class_="m", transform=f"rotate(-90 12 {middle:.1f})"),
        svg.text(left - 8, 12, "predicted", anchor="end", class_="m"),
    ]


def _cell(
    x: float,
    y: float,
    grid: _Grid,
    names: Sequence[str],
    at: tuple[int, int],
    images_of_total: tuple[int, int],
) -> list[Markup]:
    (given, predicted), (images, total) = at, images_of_total
    fraction = images / total if total else 0.0
    hue = "h" if given == predicted else "w"
    small = len(names) > MOST_NUMBERED
    # Even one image among many must stand out from an empty cell, all the more without a number in it.
    step = max(heat_step(fraction), 3 if small else 2) if images else 0
    tip = None
    if images:
        told = "rightly" if given == predicted else f"as {names[predicted]}"
        tip = f"{names[given]} predicted {told}: {count(images)} of {count(total)} ({percent(fraction)})"
    gap = 1.0 if grid.cell > 10 else 0.0
    shapes = [svg.rect(x, y, grid.cell - gap, grid.cell - gap, f"{hue}{step}" if images else "nought", tip)]
    if images and not small:
        middle_x, middle_y = x + grid.cell / 2 - 0.5, y + grid.cell / 2 + grid.font * 0.36
        size = grid.font if images < 1000 or grid.cell > 32 else 9
        shapes.append(
            svg.text(
                middle_x,
                middle_y,
                str(images),
                anchor="middle",
                class_=f"on {hue}t{step} num",
                font_size=size,
            )
        )
    return shapes


def reliability(bins: Sequence[ReliabilityBin], width: float = 348) -> Markup:
    """Accuracy against confidence, bin by bin, over a histogram of how many images each bin holds.

    On the dashed diagonal a model's probability means what it says (Niculescu-Mizil and Caruana 2005; Guo et
    al. 2017). The line from a dot to the diagonal is that bin's error.
    """
    filled = [each for each in bins if each.count]
    left, right, top, plot, bars = 44.0, width - 10, 10.0, 200.0, 74.0
    across = svg.Scale(0, 1, left, right)
    up = svg.Scale(0, 1, top + plot, top)
    floor = top + plot + 34 + bars
    shapes = [
        *_reliability_frame(across, up),
        svg.text(right, floor + 30, "probability of the predicted class", anchor="end", class_="m"),
    ]
    most = max((each.count for each in filled), default=1)
    tall = svg.Scale(0, most, 0, bars - 14)
    for each in filled:
        shapes.extend(_reliability_dot(each, across, up))
        x, wide = across(each.low) + 1, across(each.high) - across(each.low) - 2
        edges = f"{percent(each.low, 0)} to {percent(each.high, 0)}"
        tip = f"{count(each.count)} images with a probability of {edges}"
        shapes.append(svg.rect(x, floor - tall(each.count), wide, max(tall(each.count), 1), "bar-fill", tip))
        shapes.append(
            svg.text(
                x + wide / 2,
                floor - tall(each.count) - 4,
                _short(each.count),
                anchor="middle",
                class_="m num tiny",
            )
        )
    shapes.append(svg.line(left, floor, right, floor, "axis"))
    shapes.append(svg.text(0, floor - bars / 2 + 4, "images", class_="m small"))
    shapes.extend(
        svg.text(across(tick), floor + 14, percent(tick, 0), anchor="middle", class_="m num small")
        for tick in (0, 0.5, 1)
    )
    total = sum(each.count for each in filled)
    label = f"Reliability diagram: accuracy against probability of {total} images in {len(filled)} bins."
    return svg.drawing(width, floor + 36, label, *shapes)


def _reliability_frame(across: svg.Scale, up: svg.Scale) -> list[Markup]:
    shapes: list[Markup] = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        shapes.append(svg.line(across.start, up(tick), across.end, up(tick), "grid"))
        shapes.append(
            svg.text(across.start - 6, up(tick) + 4, percent(tick, 0), anchor="end", class_="m num small")
        )
    shapes.append(svg.line(across(0), up(0), across(1), up(1), "ideal"))
    shapes.append(svg.text(across.start + 6, up(1) + 14, "accuracy", class_="m"))
    return shapes


def _reliability_dot(each: ReliabilityBin, across: svg.Scale, up: svg.Scale) -> list[Markup]:
    if not (known(each.confidence) and known(each.accuracy)):
        return []
    x, y = across(each.confidence), up(each.accuracy)
    tip = f"{count(each.count)} images: said {percent(each.confidence)}, right {percent(each.accuracy)}"
    return [
        svg.line(x, y, x, up(each.confidence), "gap"),
        svg.element("circle", svg.element("title", tip), cx=x, cy=y, r=4.5, class_="dot"),
    ]


def _short(images: int) -> str:
    return (
        str(images) if images < 1000 else f"{images / 1000:.1f}k" if images < 10_000 else f"{images // 1000}k"
    )
