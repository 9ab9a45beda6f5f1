"""SVG and HTML elements as strings that are safe by construction, and the scales that charts are drawn with.

Everything that is not already `Markup` is escaped, so a class named `<script>` becomes text. Colours are
never written here: shapes carry classes and the style sheet gives them the colours of the theme, which is how
a chart follows the reader's choice of light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tunesmith_trainer.publish.report.formats import printable

Child = Markup | str | None
Attribute = str | float | int | bool | None

CHARACTER_WIDTH = 0.58
"""Mean width of a character in units of the font size: what a label takes, roughly, before it is drawn."""


LONGEST_LABEL = 160
"""Characters of a text or tooltip inside a drawing."""


def _attribute(name: str, value: Attribute) -> str:
    if isinstance(value, bool):
        return ""
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return str(escape(value if name == "d" else printable(str(value), 2 * LONGEST_LABEL)))


def element(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """One element. `class_` is written class, `stroke_width` stroke-width; None and False leave one out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(key, value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = group(*children)
    return Markup(f"<{name}{written}>{inner}</{name}>")


def group(*children: Child) -> Markup:
    """The children one after the other, each escaped unless it is markup already."""
    return Markup("").join(
        child if isinstance(child, Markup) else escape(printable(child, LONGEST_LABEL))
        for child in children
        if child is not None
    )


def drawing(width: float, height: float, label: str, *children: Child, class_: str = "") -> Markup:
    """A whole chart: an image with one name for those who hear the page instead of seeing it.

    Args:
        width: Natural width in CSS pixels: it is drawn at this size, and a narrower page scrolls it.
        height: Natural height.
        label: What the picture shows, in a sentence, for screen readers.
        children: The shapes.
        class_: Further classes.
    """
    return element(
        "svg",
        *children,
        class_=f"chart {class_}".rstrip(),
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


def text(
    x: float, y: float, content: str, *, anchor: str = "start", class_: str = "", **more: Attribute
) -> Markup:
    """A line of text; `anchor` is start, middle or end."""
    return element(
        "text",
        content,
        x=float(x),
        y=float(y),
        text_anchor=None if anchor == "start" else anchor,
        class_=class_ or None,
        **more,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str, tip: str | None = None) -> Markup:
    """A rectangle, with a tooltip if there is something to say."""
    return element(
        "rect",
        element("title", tip) if tip else None,
        x=float(x),
        y=float(y),
        width=float(max(width, 0.0)),
        height=float(max(height, 0.0)),
        class_=class_,
    )


def path(points: Iterable[tuple[float, float]]) -> str:
    """The `d` of a polyline."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def shorten(label: str, width: float, font_size: float = 12) -> str:
    """Cut a label so that it takes about `width` pixels at most."""
    room = max(2, int(width / (font_size * CHARACTER_WIDTH)))
    return label if len(label) <= room else label[: room - 1].rstrip() + "…"


@dataclass(frozen=True)
class Scale:
    """Maps values to positions, linearly or by logarithm; values outside are drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of `value`."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        if high <= low:
            return (self.start + self.end) / 2
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, at_most: int = 5) -> tuple[float, ...]:
        """Round values between low and high."""
        spread = self.high - self.low
        if not 1e-12 * max(abs(self.low), abs(self.high), 1e-200) < spread < math.inf:
            return (self.low,)
        if not self.log:
            return linear_ticks(self.low, self.high, at_most)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        powers = tuple(10.0**power for power in range(first, last + 1))
        return thin(powers, at_most) if len(powers) > 1 else (self.low, self.high)


def linear_ticks(low: float, high: float, at_most: int) -> tuple[float, ...]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten within [low, high], `at_most` of them."""
    rough = (high - low) / max(at_most - 1, 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(
        factor * magnitude
        for factor in (1, 2, 2.5, 5, 10, 20)
        if math.floor(high / (factor * magnitude) + 1e-9) - math.ceil(low / (factor * magnitude) - 1e-9)
        < at_most
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def thin(values: Sequence[float], at_most: int) -> tuple[float, ...]:
    """Every so-manieth value, so that `at_most` remain."""
    stride = math.ceil(len(values) / at_most)
    return tuple(values[::stride])
