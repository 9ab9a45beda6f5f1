"""Small drawings that stand beside a number: an interval, a bar, a mark."""

from __future__ import annotations

from markupsafe import Markup

from tunesmith_trainer.publish.report import svg
from tunesmith_trainer.publish.report.data import Estimate
from tunesmith_trainer.publish.report.formats import known, metric_interval, metric_label, metric_value


def interval(estimate: Estimate, bound: float | None = None, width: float = 150) -> Markup:
    """A dot on its 95 % interval, with a tick at the gate's bound; nothing when there is no interval.

    The scale is cut to what is drawn, so the glyph compares the three with each other and not with zero.
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    if not (known(value) and known(low) and known(high)) or low == high:
        return Markup()
    shown = [value, low, high, *([bound] if known(bound) else [])]
    span = max(shown) - min(shown) or abs(value) or 1.0
    scale = svg.Scale(min(shown) - 0.08 * span, max(shown) + 0.08 * span, 0, width)
    spoken = f"{metric_label(estimate.metric)} {metric_value(estimate.metric, value)}, 95 % interval "
    shapes = [
        svg.line(0, 10, width, 10, "grid"),
        svg.line(scale(low), 10, scale(high), 10, "whisker"),
        svg.element("circle", cx=float(scale(value)), cy=10.0, r=4.5, class_="dot"),
    ]
    if known(bound):
        shapes.append(svg.line(scale(bound), 1, scale(bound), 19, "bound"))
        spoken += f"{metric_interval(estimate)}, gate at {metric_value(estimate.metric, bound)}"
    else:
        spoken += metric_interval(estimate)
    return svg.drawing(width, 20, spoken, *shapes, class_="glyph")


def bar(fraction: float | None, width: float = 70) -> Markup:
    """A bar filled to `fraction` (0..1); it repeats a number that stands beside it, so it is not read out."""
    if not known(fraction):
        return Markup()
    return svg.element(
        "svg",
        svg.rect(0, 0, width, 8, "bar-room"),
        svg.rect(0, 0, width * min(max(fraction, 0.0), 1.0), 8, "bar-fill"),
        class_="glyph bar",
        viewBox=f"0 0 {width:g} 8",
        width=width,
        height=8,
        aria_hidden="true",
    )
