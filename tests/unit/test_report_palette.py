"""The report's colours can be read by everybody, in both themes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_trainer.publish.report.palette import (
    HEAT_STEPS,
    READABLE,
    TEXT_PAIRS,
    THEMES,
    contrast,
    heat_step,
    mix,
)

COLOURS = st.integers(0, 0xFFFFFF).map(lambda value: f"#{value:06x}")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("text", "paper"), TEXT_PAIRS, ids=lambda name: name)
def test_text_on_its_background_is_readable(theme: str, text: str, paper: str) -> None:
    colours = THEMES[theme]
    assert contrast(colours[text], colours[paper]) >= READABLE


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("shape", ["accent", "warm", "bad", "axis", "muted"])
def test_a_shape_that_means_something_stands_out_from_the_page(theme: str, shape: str) -> None:
    assert contrast(THEMES[theme][shape], THEMES[theme]["paper"]) >= 3  # WCAG 2.2, 1.4.11


def test_both_themes_define_the_same_colours() -> None:
    assert THEMES["light"].keys() == THEMES["dark"].keys()


def test_contrast_of_black_and_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_contrast_of_a_known_pair_is_what_wcag_tools_say() -> None:
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@given(COLOURS, COLOURS)
def test_contrast_does_not_depend_on_which_is_the_text(one: str, other: str) -> None:
    assert contrast(one, other) == contrast(other, one) >= 1


@given(COLOURS, COLOURS)
def test_mix_begins_with_the_base_and_ends_with_the_hue(base: str, hue: str) -> None:
    assert (mix(base, hue, 0), mix(base, hue, 1)) == (base, hue)


@given(st.floats(0, 1), st.floats(0, 1))
def test_heat_step_of_more_is_never_less(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= heat_step(low) <= heat_step(high) < len(HEAT_STEPS)


def test_heat_step_of_nothing_is_nothing_and_of_all_is_the_last() -> None:
    assert (heat_step(0), heat_step(1e-9), heat_step(1)) == (0, 1, len(HEAT_STEPS) - 1)
