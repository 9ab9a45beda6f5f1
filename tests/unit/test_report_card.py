"""MODEL_CARD.md: the report in short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.report_samples import HOSTILE_NAMES, SPEC, failed_run, good_run, hundred_classes

from tunesmith_trainer.publish.card import render_card
from tunesmith_trainer.publish.report.data import (
    ClassCount,
    Estimate,
    QualityFacts,
    ReportData,
    ReproductionFacts,
    SearchFacts,
)

HEADINGS = ["Model", "Use", "Quality", "Worth knowing", "Data", "Search", "Reproduction"]


def parts(card: str) -> tuple[dict[str, object], str]:
    """The front matter and the body."""
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def tokens(body: str) -> list[tuple[str, str]]:
    """(type, content) of every block and inline token, read as CommonMark with tables."""
    blocks = MarkdownIt("commonmark").enable("table").parse(body)
    inline = [child for block in blocks for child in block.children or ()]
    return [(token.type, token.content) for token in (*blocks, *inline)]


def headings(body: str) -> list[str]:
    blocks = MarkdownIt("commonmark").parse(body)
    return [
        blocks[at + 1].content
        for at, block in enumerate(blocks)
        if block.type == "heading_open" and block.tag == "h2"
    ]


@pytest.mark.parametrize("run", [good_run, failed_run, hundred_classes], ids=lambda run: run.__name__)
def test_card_of_any_run_has_its_sections_and_no_html(run: Callable[[], ReportData]) -> None:
    _, body = parts(render_card(run()))
    assert headings(body) == HEADINGS
    assert not [kind for kind, _ in tokens(body) if kind.startswith("html")]


def test_card_front_matter_names_task_data_and_metrics_for_registries() -> None:
    front, _ = parts(render_card(good_run()))
    assert front["pipeline_tag"] == "image-classification"
    index = cast(list[Any], front["model-index"])
    assert index[0]["results"][0]["metrics"][0] == {"type": "accuracy", "value": 0.958333, "verified": True}


def test_card_names_the_score_interval_of_a_flawless_test_split() -> None:
    data = good_run()
    flawless = Estimate("accuracy", 1.0, 0.936, 1.0, "wilson")
    quality = replace(data.quality, metrics=(flawless, *data.quality.metrics[1:]))
    assert "Wilson's score interval for Accuracy" in render_card(replace(data, quality=quality))


def test_card_of_an_unverified_model_says_so_first_and_has_no_command_to_predict() -> None:
    _, body = parts(render_card(failed_run()))
    assert body.index("Not verified") < body.index("## Model")
    assert "20.6 points below the gate" in body[: body.index("## Model")]
    assert "tunesmith predict" not in body


def test_card_with_hostile_class_names_shows_them_as_code() -> None:
    _, body = parts(render_card(failed_run()))
    assert ("code_inline", HOSTILE_NAMES[0]) in tokens(body)


def test_card_holds_the_spec_as_it_was() -> None:
    _, body = parts(render_card(good_run()))
    assert ("fence", SPEC) in tokens(body)


def test_card_of_a_run_without_search_and_test_split_leaves_nothing_half_said() -> None:
    bare = replace(failed_run(), search=SearchFacts("Random", "None"), quality=QualityFacts(), gates=())
    _, body = parts(render_card(bare))
    assert "Not measured." in body
    assert "## Search" not in body


STRANGERS = st.text(
    st.characters(codec=None) | st.sampled_from(list("#`*_[]()<>|-+!&\n\r\t$:/@.1)~=")), max_size=40
)


@given(STRANGERS, STRANGERS, STRANGERS)
def test_card_with_any_strings_keeps_its_headings_and_never_links_or_embeds(
    name: str, message: str, spec: str
) -> None:
    data = replace(
        failed_run(),
        verdict=message,
        dataset=replace(failed_run().dataset, classes=(ClassCount(name, 1, 1, 1), ClassCount("b", 1, 1, 1))),
        model=replace(failed_run().model, selection=message, trial=name),
        quality=QualityFacts(images=3),
        gates=tuple(replace(gate, message=message, limit=name) for gate in failed_run().gates),
        reproduction=ReproductionFacts(spec_yaml=spec, seeds=((name, name),)),
    )
    card = render_card(data)
    card.encode("utf-8")
    _, body = parts(card)
    kinds = {kind for kind, _ in tokens(body)}
    assert headings(body) == ["Model", "Use", "Quality", "Worth knowing", "Data", "Search", "Reproduction"]
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "hr", "blockquote_open"}
