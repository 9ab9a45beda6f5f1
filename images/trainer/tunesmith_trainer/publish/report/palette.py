"""The report's colours in both themes, and the arithmetic that keeps text readable on them.

Colours are sRGB "#rrggbb". Contrast is WCAG 2.2's ratio (1..21); text needs 4.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

READABLE = 4.5

HEAT_STEPS = (0.0, 0.08, 0.18, 0.30, 0.44, 0.92, 1.0)
"""How much of the hue each step of a heat map holds. The gap is meant: between 0.44 and 0.92 lie the tones on
which neither dark nor light text reaches a contrast of 4.5."""

_LIGHT = {
    "paper": "#fbfaf8",
    "surface": "#ffffff",
    "sunken": "#f3f1ec",
    "ink": "#1d2025",
    "muted": "#5b6069",
    "rule": "#e2dfd8",
    "axis": "#8d9199",
    "accent": "#0f5c94",
    "soft": "#7fb2d9",
    "faint": "#c6cbd3",
    "warm": "#a8440c",
    "good": "#17693b",
    "good-paper": "#e6f3ea",
    "bad": "#a9231c",
    "bad-paper": "#fbeae8",
}

_DARK = {
    "paper": "#14161a",
    "surface": "#1b1e24",
    "sunken": "#22262d",
    "ink": "#eceae5",
    "muted": "#a6abb5",
    "rule": "#31363f",
    "axis": "#757b87",
    "accent": "#7cbdf0",
    "soft": "#3d6e96",
    "faint": "#4a515d",
    "warm": "#f2a065",
    "good": "#6fcf97",
    "good-paper": "#17301f",
    "bad": "#ff9088",
    "bad-paper": "#3a1d1c",
}


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2), 0..1."""
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2), 1..21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def mix(base: str, hue: str, amount: float) -> str:
    """`amount` of `hue` over `base`, channel by channel."""
    pairs = ((int(base[at : at + 2], 16), int(hue[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(low + (high - low) * amount):02x}" for low, high in pairs)


def _readable_on(tone: str, theme: Mapping[str, str]) -> str:
    """The theme's text or paper colour, whichever stands out more on `tone`."""
    return max(theme["ink"], theme["paper"], key=lambda text: contrast(text, tone))


def _with_heat(theme: Mapping[str, str]) -> Mapping[str, str]:
    """Add heat-N (cool), warm-N (warm) and the text colours on-heat-N, on-warm-N to a theme."""
    colours = dict(theme)
    for name, hue in (("heat", theme["accent"]), ("warm", theme["warm"])):
        for step, amount in enumerate(HEAT_STEPS):
            tone = mix(theme["surface"], hue, amount)
            colours[f"{name}-{step}"] = tone
            colours[f"on-{name}-{step}"] = _readable_on(tone, theme)
    return MappingProxyType(colours)


THEMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"light": _with_heat(_LIGHT), "dark": _with_heat(_DARK)}
)

TEXT_PAIRS: tuple[tuple[str, str], ...] = (
    *(
        (text, paper)
        for text in ("ink", "muted", "accent", "warm")
        for paper in ("paper", "surface", "sunken")
    ),
    *((text, paper) for text in ("good", "bad") for paper in ("paper", "surface")),
    ("good", "good-paper"),
    ("bad", "bad-paper"),
    ("ink", "good-paper"),
    ("ink", "bad-paper"),
    *(
        (f"on-{name}-{step}", f"{name}-{step}")
        for name in ("heat", "warm")
        for step in range(len(HEAT_STEPS))
    ),
)
"""(text, background) pairs that the style sheet uses; tests hold each to `READABLE` in both themes."""


def heat_step(fraction: float) -> int:
    """The step of a heat map for a value in 0..1: 0 only for nothing at all, the last for 0.9 and more."""
    edges = (0.0, 0.05, 0.15, 0.3, 0.5, 0.9)
    return sum(fraction > edge for edge in edges[:-1]) + (fraction >= edges[-1])
