"""How the report writes numbers and strangers' strings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_trainer.publish.report import formats
from tunesmith_trainer.publish.report.data import Estimate

ANY_TEXT = st.text(st.characters(codec=None))  # lone surrogates included, as os.fsdecode makes them


@given(ANY_TEXT, st.integers(2, 50))
def test_printable_of_any_text_can_be_stored_and_is_no_longer_than_asked(text: str, limit: int) -> None:
    shown = formats.printable(text, limit)
    assert len(shown) <= limit
    shown.encode("utf-8")
    assert not set(shown) & {chr(code) for code in (*range(9), *range(0x7F, 0xA0), *range(0x202A, 0x202F))}


def test_printable_of_a_harmless_text_changes_nothing() -> None:
    assert formats.printable("Löwenzahn, 蒲公英 🌼\n") == "Löwenzahn, 蒲公英 🌼\n"


@given(st.text(min_size=1), st.integers(4, 40))
def test_clip_middle_of_a_long_path_keeps_its_end_and_the_limit(path: str, limit: int) -> None:
    shown = formats.clip_middle(path, limit)
    assert len(shown) <= limit
    assert path.endswith(shown.rpartition("…")[2]) or "…" in path


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param(formats.percent(0.9666), "96.7\u202f%", id="a fraction is a percentage with one digit"),
        pytest.param(formats.percent(None), "–", id="what is not known is a dash"),
        pytest.param(formats.percent(math.nan), "–", id="what is not a number is a dash"),
        pytest.param(formats.number(math.inf), "–", id="infinity is a dash"),
        pytest.param(formats.count(1234567), "1,234,567", id="thousands are separated"),
        pytest.param(formats.plural(1, "class", "classes"), "1 class", id="one is singular"),
        pytest.param(formats.plural(0, "photo"), "0 photos", id="none is plural"),
        pytest.param(formats.seconds(0.416), "0.42 s", id="less than a second has two digits"),
        pytest.param(formats.seconds(59.7), "1 min 00 s", id="nearly a minute is a minute"),
        pytest.param(formats.seconds(3900), "1 h 05 min", id="more than an hour needs no seconds"),
        pytest.param(formats.size(9_120_000), "9.1 MB", id="a size is in decimal units"),
        pytest.param(formats.setting(0.00316), "3.16e-3", id="a small parameter is in powers of ten"),
        pytest.param(formats.setting(0.1), "0.1", id="an ordinary parameter is not"),
        pytest.param(formats.setting(True), "yes", id="a boolean is a word"),
        pytest.param(formats.setting(32), "32", id="a whole parameter stays whole"),
        pytest.param(formats.words("learningRate"), "learning rate", id="camel case becomes words"),
        pytest.param(
            formats.title("exif-orientation"), "EXIF orientation", id="acronyms keep their capitals"
        ),
        pytest.param(
            formats.metric_value("latencyP95Milliseconds", 14.23), "14.2 ms", id="latency has its unit"
        ),
        pytest.param(formats.metric_label("accuracy"), "Accuracy", id="a metric has a name for people"),
        pytest.param(
            formats.metric_label("someNewMetric"), "Some new metric", id="a new metric is spelt out"
        ),
    ],
)
def test_a_value_is_written_the_same_everywhere(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        pytest.param(
            Estimate("accuracy", 0.96, 0.95, 0.981), "95.0–\u206098.1\u202f%", id="the unit is said once"
        ),
        pytest.param(
            Estimate("latencyP95Milliseconds", 14, 13.9, 15), "13.9–\u206015.0 ms", id="for every unit"
        ),
        pytest.param(
            Estimate("calibrationError", 0.013, 0.008, 0.029), "0.008–\u20600.029", id="or not at all"
        ),
        pytest.param(Estimate("accuracy", 0.96), "", id="without an interval nothing is said"),
        pytest.param(Estimate("accuracy", 0.96, math.nan, 0.98), "", id="half an interval is none"),
        pytest.param(Estimate("modelSizeMegabytes", 9, 9, 9), "", id="no width is no interval"),
    ],
)
def test_an_interval_is_written_with_its_unit(estimate: Estimate, expected: str) -> None:
    assert formats.metric_interval(estimate) == expected


def test_intervals_note_names_the_metrics_that_have_a_score_interval() -> None:
    exact = [Estimate(name, 1.0, 0.9, 1.0, "wilson") for name in ("accuracy", "macroF1", "worstClassRecall")]
    loss = Estimate("negativeLogLikelihood", 0.1, 0.05, 0.2)
    assert formats.intervals_note([loss]) == "Ranges are 95\u202f% bootstrap intervals."
    assert "for Accuracy, Macro F1 and Worst class recall, as" in formats.intervals_note([*exact, loss])
    assert "for Accuracy, as all resamples agree on it." in formats.intervals_note([exact[0], loss])
