"""The report as a page: one file, complete, harmless and small."""

from __future__ import annotations

import base64
import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import yaml
from PIL import Image
from tests.drawn_photos import jpeg, photo
from tests.report_samples import HOSTILE_NAMES, failed_run, good_run, hundred_classes

from tunesmith.cli import app
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_trainer.publish.report import (
    LARGEST_BYTES,
    ReportData,
    ReportTooLarge,
    commands,
    render_report,
)
from tunesmith_trainer.publish.report.data import (
    ClassCount,
    CurvePoint,
    Estimate,
    Evidence,
    FindingFacts,
    Mistake,
    QualityFacts,
    Sample,
    SearchFacts,
    SuspectLabel,
    TrialRow,
)

RUNS = (good_run, failed_run, hundred_classes)
VOID = {"meta", "link", "img", "br", "wbr"}


class Page(HTMLParser):
    """A strict reader: every element that is opened is closed in order; remembers what it met."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.inside: dict[str, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.inside[self.open[-1]] = data
        else:
            self.text.append(data)

    def words(self) -> str:
        return " ".join("".join(self.text).split())


def words_of(data: ReportData) -> str:
    return Page(render_report(data)).words()


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_page_of_any_run_is_well_formed_and_closes_everything(run: Callable[[], ReportData]) -> None:
    page = Page(render_report(run()))
    assert page.open == []
    assert Counter(tag for tag, _ in page.elements)["section"] == 9


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_page_of_any_run_is_far_below_five_megabytes(run: Callable[[], ReportData]) -> None:
    assert len(render_report(run()).encode()) < 1_000_000


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_page_of_any_run_refers_to_nothing_outside_itself(run: Callable[[], ReportData]) -> None:
    page = Page(render_report(run()))
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            target = attributes.get(name)
            if target is not None:
                assert target.startswith("data:") or target.removeprefix("#") in ids, (tag, target)
    assert not re.search(r"@import|url\(", page.inside["style"])


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_page_of_any_run_has_no_script_or_style_beside_the_two_of_its_policy(
    run: Callable[[], ReportData],
) -> None:
    page = Page(render_report(run()))
    tags = Counter(tag for tag, _ in page.elements)
    assert (tags["script"], tags["style"]) == (1, 1)
    assert not tags.keys() & {"iframe", "object", "embed", "base", "form", "foreignobject", "use"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag


def test_page_policy_holds_the_hashes_of_exactly_what_it_contains() -> None:
    page = Page(render_report(good_run()))
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.inside[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_page_with_hostile_names_shows_them_as_text() -> None:
    words = Page(render_report(failed_run())).words()
    assert HOSTILE_NAMES[0] in words
    assert "<b>4 GiB</b> were needed & 2 GiB were there." in words
    assert "\u202e" not in words


@pytest.mark.parametrize(
    ("run", "state"), [(good_run, "Verified"), (failed_run, "Not verified")], ids=["verified", "not verified"]
)
def test_page_begins_with_verdict_model_data_and_metrics(run: Callable[[], ReportData], state: str) -> None:
    data = run()
    words = Page(render_report(data)).words()
    top = words[: words.index("Worth knowing")]
    for expected in (
        state,
        data.verdict,
        data.model.backbone,
        data.dataset.uri,
        "Accuracy",
        "95 % bootstrap",
    ):
        assert expected in top


def test_page_of_a_flawless_test_split_names_the_score_interval() -> None:
    data = good_run()
    flawless = Estimate("accuracy", 1.0, 0.936, 1.0, "wilson")
    quality = replace(data.quality, metrics=(flawless, *data.quality.metrics[1:]))
    words = Page(render_report(replace(data, quality=quality))).words()
    top = words[: words.index("Worth knowing")]
    assert "93.6–\u2060100.0 % (Wilson)" in top
    assert "Wilson's score interval for Accuracy" in top


def test_page_says_where_the_split_comes_from_only_where_that_is_known() -> None:
    data = good_run()
    dataset = replace(data.dataset, split="The split is the source's own.")
    assert "The split is the source's own. The test part" in words_of(replace(data, dataset=dataset))
    assert "by the images' content" not in words_of(data)


def test_page_of_a_failed_run_says_at_the_top_which_gate_failed_and_by_how_much() -> None:
    words = Page(render_report(failed_run())).words()
    assert "20.6 points below the gate" in words[: words.index("Worth knowing")]


def test_page_says_once_what_both_the_verdict_and_the_gate_say() -> None:
    data = failed_run()
    words = Page(render_report(replace(data, verdict=data.gates[0].message))).words()
    assert words[: words.index("Worth knowing")].count("20.6 points below the gate") == 1


def test_page_counts_mistakes_and_suspects_that_it_does_not_show() -> None:
    words = Page(render_report(replace(good_run(), suspects_found=61))).words()
    assert "61 labels are probably wrong" in words
    assert "56 further suspects are not shown." in words
    assert "4 further mistakes are not shown." in words  # 10 in the confusion matrix, 6 with pictures


def test_page_of_an_unverified_model_has_no_way_to_serve_it() -> None:
    words = Page(render_report(failed_run())).words()
    assert "Nothing will serve this model." in words
    assert "kind: ModelDeployment" not in words
    assert "tunesmith serve" not in words


def test_page_of_a_verified_model_has_the_commands_and_the_deployment() -> None:
    words = Page(render_report(good_run())).words()
    assert "tunesmith predict s3://models/models/flowers/DIGEST photo.jpg" in words
    assert "kind: ModelDeployment metadata: name: flowers namespace: default" in words


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_page_of_any_run_names_no_command_that_does_not_exist(run: Callable[[], ReportData]) -> None:
    verbs = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    named = set(re.findall(r"<code>tunesmith ([a-z]+)", render_report(run())))
    assert named
    assert named <= verbs


def test_page_of_a_verified_model_says_that_nothing_serves_the_deployment_yet() -> None:
    words = Page(render_report(good_run())).words()
    assert "tunesmith 0.1.0, which made this page, checks such a file and does not serve it yet." in words
    assert "kubectl apply" not in words


def test_deployment_of_the_page_is_valid() -> None:
    ModelDeployment.model_validate(yaml.safe_load(commands.deployment_yaml(good_run())))


@pytest.mark.parametrize(
    "sentence",
    [
        "No sample photos were kept",
        "The checks found nothing",
        "no two trials with results differ",
        "no trial was fine-tuned",
        "There was nothing to stop early",
        "The time was not measured by part",
        "No reliability diagram",
        "sliceColumns names no column",
        "No corruptions were tried",
        "No label is suspected",
    ],
)
def test_page_section_without_data_says_why(sentence: str) -> None:
    assert sentence in Page(render_report(failed_run())).words()


def test_page_section_without_data_says_the_callers_reason_where_there_is_one() -> None:
    data = replace(failed_run(), absent=(("suspects", "spec.dataset.checks.labelNoise is Off."),))
    words = Page(render_report(data)).words()
    assert "spec.dataset.checks.labelNoise is Off." in words
    assert "No label is suspected" not in words


def test_page_without_a_search_a_test_split_or_gates_is_still_whole() -> None:
    bare = replace(
        failed_run(), search=SearchFacts("Random", "None"), quality=QualityFacts(), gates=(), mistakes=()
    )
    words = Page(render_report(bare)).words()
    for sentence in (
        "There was no search",
        "No metrics",
        "The spec has no gates",
        "No class has test photos",
    ):
        assert sentence in words


def test_page_of_the_same_data_is_the_same_to_the_byte() -> None:
    assert render_report(good_run()) == render_report(good_run())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_defines_every_colour_that_it_uses(theme: str) -> None:
    style = Page(render_report(good_run())).inside["style"]
    (block,) = re.findall(rf":root(?:\[data-theme=dark\])?{{color-scheme:{theme};[^}}]*}}", style)[-1:]
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= set(re.findall(r"(--[\w-]+):", block))


def noise(seed: int, side: int) -> bytes:
    """A picture that JPEG cannot shrink."""
    return jpeg(Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(side * side * 3)))


def enormous_run() -> ReportData:
    """More of everything than a page can hold, with the longest of names."""
    data, loud = good_run(), noise(0, 256)
    long = "<&>" * 5_000
    names = tuple(f"{index}{long}" for index in range(1_200))
    curve = tuple(CurvePoint(epoch, 0.5, 0.4, 0.9, 0.1) for epoch in range(1, 31))
    parameters = tuple((f"parameter {index}{long}", long) for index in range(14))
    trials = tuple(
        TrialRow(
            f"t{i:05d}",
            "FineTune",
            long,
            (*parameters, ("x", i)),
            "Failed",
            long,
            long,
            (("accuracy", 0.5),),
            curve,
            30,
            30,
        )
        for i in range(3_000)
    )
    return replace(
        data,
        verdict=long,
        search=SearchFacts(long, "ASHA", trials=trials, ended=long),
        quality=replace(data.quality, confusion=(), per_class=(), slices=data.quality.slices * 400),
        dataset=replace(
            data.dataset,
            classes=tuple(ClassCount(name, 9, 1, 1) for name in names),
            samples=tuple(Sample(name, long, loud) for name in names),
            findings=tuple(
                FindingFacts(long, long, 9, long, (Evidence(long, long, loud),) * 12) for _ in range(30)
            ),
        ),
        mistakes=tuple(Mistake(long, name, long, 0.9, 0.1, loud, loud) for name in names),
        suspects=tuple(SuspectLabel(long, name, long, 0.9, loud) for name in names),
        reproduction=replace(data.reproduction, spec_yaml=long * 100),
    )


def test_page_of_an_enormous_run_stays_below_its_limit_and_keeps_the_mistakes_pictures() -> None:
    html = render_report(enormous_run())
    assert len(html.encode()) < LARGEST_BYTES < 5_000_000
    pictures = re.findall(r'<img src="data:image/jpeg', html[html.index('<section id="mistakes">') :])
    assert len(pictures) >= 48


def test_page_of_ten_thousand_ordinary_trials_shows_five_hundred_and_counts_all() -> None:
    data = good_run()
    trials = tuple(replace(data.search.trials[i % 50], id=f"t{i:04d}") for i in range(10_000))
    html = render_report(replace(data, search=replace(data.search, trials=trials)))
    assert len(html.encode()) < 2_500_000
    words = Page(html).words()
    assert "10,000 trials by TPE" in words
    assert "The other 9,500 are left out" in words


def test_page_with_a_smaller_limit_leaves_out_pictures_and_says_so() -> None:
    data = good_run()
    whole = render_report(data)
    limit = len(whole.encode()) - 50_000
    html = render_report(data, largest_bytes=limit)
    assert len(html.encode()) < limit
    assert "no picture" in Page(html).words()
    assert html.count("data:image/jpeg") < whole.count("data:image/jpeg")


def test_page_with_a_limit_below_its_text_is_refused() -> None:
    with pytest.raises(ReportTooLarge, match="the page may have 1000"):
        render_report(good_run(), largest_bytes=1_000)


def test_report_data_with_a_confusion_matrix_of_another_size_is_refused() -> None:
    data = good_run()
    with pytest.raises(ValueError, match="12 rows and columns"):
        replace(data, quality=replace(data.quality, confusion=((1, 2), (3, 4))))


def test_page_picture_that_is_not_one_is_replaced_by_words() -> None:
    data = replace(
        good_run(),
        mistakes=(Mistake("a.jpg", "iris", "pansy", 0.9, 0.1, b"<svg onload=alert(1)>", photo(1, 1)),),
    )
    html = render_report(data)
    assert 'aria-label="Photo given as iris and predicted as pansy: no picture"' in html
    assert "onload" not in html
