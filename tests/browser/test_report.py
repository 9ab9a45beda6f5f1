"""The report in a real browser: Debian's chromium, driven by selenium, at two sizes and in both themes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from tests.report_samples import failed_run, good_run, hundred_classes, long_names
from tests.testbed.browser import CONTRAST, DESKTOP, PHONE, running_chromium, show_as

from tunesmith_trainer.publish.report import ReportData, render_report

RUNS: dict[str, Callable[[], ReportData]] = {
    "good": good_run,
    "failed": failed_run,
    "hundred": hundred_classes,
    "long": long_names,
}
SIZES = [
    pytest.param(PHONE, id="phone"),
    pytest.param((768, 1024), id="tablet"),
    pytest.param(DESKTOP, id="desktop"),
]


class Reader:
    """A person with a browser who opens reports."""

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(
        self, name: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False, scripts: bool = True
    ) -> None:
        """Open the report called `name` as a window of this size in a system of this theme shows it."""
        show_as(self.driver, size, dark=dark)
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        self.driver.get((self.folder / f"{name}.html").as_uri())
        if scripts:
            self.driver.execute_script("localStorage.clear()")
            self.driver.refresh()

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What the browser noted ("browser" or "performance") since the last time."""
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def point(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window, after it has come to rest."""
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def tap(self, x: float, y: float) -> None:
        """Touch the screen at a place in the window."""
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One chromium for the whole module, and the reports to read."""
    folder = tmp_path_factory.mktemp("reports")
    for name, run in RUNS.items():
        (folder / f"{name}.html").write_text(render_report(run()), encoding="utf-8")
    with running_chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield Reader(driver, folder)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", RUNS)
def test_report_at_any_size_never_scrolls_sideways(reader: Reader, name: str, size: tuple[int, int]) -> None:
    reader.open(name, size)
    assert reader.run("return [innerWidth, document.documentElement.scrollWidth]") == [size[0], size[0]]


@pytest.mark.parametrize("name", RUNS)
def test_report_opens_without_a_word_on_the_console_or_a_request(reader: Reader, name: str) -> None:
    reader.log("browser")
    reader.log("performance")
    reader.open(name)
    assert reader.log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in reader.log("performance")]
    requested = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    outside = {url for url in requested if not url.startswith("data:")}
    assert outside == {(reader.folder / f"{name}.html").as_uri()}


def test_report_policy_stops_a_script_and_a_request_that_slipped_in(reader: Reader) -> None:
    reader.open("good")
    reader.run(
        """const script = document.createElement('script'); script.textContent = 'window.slipped = true';
        document.body.append(script);
        const image = new Image(); image.src = 'http://127.0.0.1:9/pixel.png'; document.body.append(image);"""
    )
    assert reader.run("return window.slipped === undefined")
    blocked = [entry["message"] for entry in reader.log("browser")]
    assert any("script-src" in message for message in blocked)
    assert any("img-src" in message for message in blocked)


@pytest.mark.parametrize(
    ("size", "inside"),
    [
        pytest.param(PHONE, "h1, .lede, .verdict, .facts, .tiles > :first-child", id="phone"),
        pytest.param(DESKTOP, "h1, .lede, .verdict, .facts, .tiles", id="desktop"),
    ],
)
@pytest.mark.parametrize("name", ["good", "failed", "hundred"])
def test_report_first_screen_holds_verdict_model_data_and_accuracy(
    reader: Reader, name: str, size: tuple[int, int], inside: str
) -> None:
    reader.open(name, size)
    bottoms = reader.run(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().bottom)",
        inside,
    )
    assert len(bottoms) == 5
    assert max(bottoms) <= size[1]


@pytest.mark.parametrize("name", ["good", "failed"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_report_text_in_both_themes_has_a_contrast_of_at_least_4_5(
    reader: Reader, name: str, dark: bool
) -> None:
    reader.open(name, dark=dark)
    checked, weak = reader.run(CONTRAST.read_text(encoding="utf-8"))
    assert checked > 200
    assert weak == []


def test_report_theme_follows_the_system_until_the_reader_chooses_and_remembers_the_choice(
    reader: Reader,
) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    reader.open("good")
    light, button = reader.run(paper), reader.find("#theme")
    assert button.text == "Dark theme"
    button.click()
    dark = reader.run(paper)
    assert (dark != light, reader.find("#theme").text) == (True, "Light theme")
    # Chromium keeps the choice a moment later, on a busy machine after the next page has begun.
    reload = reader.driver.refresh
    WebDriverWait(reader.driver, 20).until(lambda _: (reload(), reader.run(paper))[1] == dark, "a dark page")
    reader.find("#theme").click()
    assert reader.run(paper) == light
    reader.open("good", dark=True)
    assert (reader.run(paper), reader.find("#theme").text) == (dark, "Light theme")


def column(reader: Reader, table: str, index: int) -> list[str]:
    """The texts of one column of a table from top to bottom."""
    rows = f"[...document.querySelectorAll('{table} tbody tr')]"
    texts: list[str] = reader.run(f"return {rows}.map(row => row.cells[{index}].innerText)")
    return texts


def test_report_trials_are_sorted_by_a_number_the_best_first_and_then_the_other_way(reader: Reader) -> None:
    reader.open("good")
    heads = [head.text.removesuffix(" ↕").strip() for head in reader.all("table.trials thead th")]
    loss = heads.index("Negative log likelihood")
    button = reader.all("table.trials thead th button")[loss]
    numbers: list[list[float]] = []
    for order in ("descending", "ascending"):
        button.click()
        assert reader.all("table.trials thead th")[loss].get_attribute("aria-sort") == order
        shown = column(reader, "table.trials", loss)
        assert shown[-2:] == ["–", "–"]  # failed trials have none and stay at the end
        numbers.append([float(text) for text in shown[:-2]])
    assert numbers[0] == sorted(numbers[0], reverse=True)
    assert numbers[1] == sorted(numbers[1])
    assert len(numbers[0]) == 62


@pytest.mark.parametrize("size", [pytest.param(PHONE, id="phone"), pytest.param(DESKTOP, id="desktop")])
def test_report_trials_say_that_there_are_more_columns_until_the_last_is_seen(
    reader: Reader, size: tuple[int, int]
) -> None:
    reader.open("good", size)
    cue = (
        "const box = document.querySelector('table.trials').parentElement, cue = box.previousElementSibling;"
    )
    shown = f"{cue} return [cue.hidden, getComputedStyle(cue).visibility];"
    assert reader.run(shown) == [False, "visible"]
    reader.run(f"{cue} box.scrollLeft = box.scrollWidth;")
    reader.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert reader.run(shown) == [False, "hidden"]
    reader.run(
        "document.querySelector('table.trials').style.display = 'none'; dispatchEvent(new Event('resize'))"
    )
    assert reader.run(shown)[0] is True


@pytest.mark.parametrize("size", [pytest.param(PHONE, id="phone"), pytest.param(DESKTOP, id="desktop")])
def test_report_trials_keep_their_first_column_in_sight_and_on_top(
    reader: Reader, size: tuple[int, int]
) -> None:
    reader.open("good", size)
    seen = reader.run(
        """const table = document.querySelector('table.trials'), box = table.parentElement;
        box.scrollIntoView({block: 'center'}); box.scrollLeft = 200; box.scrollTop = 200;
        const left = box.getBoundingClientRect().left, rows = [table.tHead.rows[0], ...table.tBodies[0].rows];
        const inside = rows.filter((row) => {
          const y = row.getBoundingClientRect().top - box.getBoundingClientRect().top;
          return row.parentElement === table.tHead || (y > 110 && y < box.clientHeight - 60);
        });
        return inside.map((row) => {
          const cell = row.cells[0], at = cell.getBoundingClientRect();
          const top = document.elementFromPoint(at.left + 12, at.top + at.height / 2);
          return [Math.round(at.left - left), cell.contains(top)];
        });"""
    )
    assert len(seen) > 4
    assert all(one == [0, True] for one in seen)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        pytest.param(PHONE, ["Trial", "Strategy", "Backbone", "Accuracy"], id="phone"),
        pytest.param(
            DESKTOP,
            [
                "Trial",
                "Strategy",
                "Backbone",
                "Accuracy",
                "Negative log likelihood",
                "State",
                "Epochs",
                "Time",
            ],
            id="desktop",
        ),
    ],
)
def test_report_trials_show_their_result_before_anybody_scrolls(
    reader: Reader, size: tuple[int, int], wanted: list[str]
) -> None:
    reader.open("good", size)
    whole: list[str] = reader.run(
        """const table = document.querySelector('table.trials');
        const right = table.parentElement.getBoundingClientRect().right;
        const whole = (cell) => cell.firstChild.getBoundingClientRect().right <= right;
        return [...table.tHead.rows[0].cells].filter(whole).map((cell) => cell.textContent.trim());"""
    )
    assert whole[: len(wanted)] == wanted


@pytest.mark.parametrize(
    ("chart", "size"),
    [pytest.param(".only-wide", DESKTOP, id="desktop"), pytest.param(".only-narrow", PHONE, id="phone")],
)
def test_report_parallel_coordinates_strike_no_label_through(
    reader: Reader, chart: str, size: tuple[int, int]
) -> None:
    reader.open("good", size)
    assert len(reader.all(f"{chart} .parallel text.tick")) > 10
    struck: list[str] = reader.run(
        """const drawing = document.querySelector(`${arguments[0]} .parallel`);
        const lines = [...drawing.querySelectorAll('path.trial')];
        return [...drawing.querySelectorAll('text.tick')].filter((label) => {
          const plate = label.previousElementSibling, a = plate.getBBox(), b = label.getBBox();
          return !(plate.matches('rect.plate') && a.x <= b.x + 1 && a.x + a.width >= b.x + b.width - 1
            && a.y <= b.y + 4 && a.y + a.height >= b.y + b.height - 4
            && lines.every((line) => line.compareDocumentPosition(plate) & Node.DOCUMENT_POSITION_FOLLOWING));
        }).map((label) => label.textContent);""",
        chart,
    )
    assert struck == []


def test_report_classes_are_sorted_by_name_with_the_keyboard(reader: Reader) -> None:
    reader.open("good")
    reader.find("table.classes thead button").send_keys(Keys.ENTER)
    names = column(reader, "table.classes", 0)
    assert names == sorted(names)
    assert len(names) == 12


def line_middle(reader: Reader, selector: str) -> tuple[float, float, str]:
    """A point of the window on the last piece of a visible line, and its trial."""
    x, y, trial = reader.run(
        """const line = document.querySelector(arguments[0]), chart = line.ownerSVGElement;
        chart.scrollIntoView({block: 'center'});
        const places = line.getAttribute('d').slice(1).split('L').map((pair) => pair.split(' ').map(Number));
        const [a, b] = places.slice(-2), box = chart.getBoundingClientRect();
        return [box.left + (a[0] + b[0]) / 2, box.top + (a[1] + b[1]) / 2, line.dataset.trial];""",
        selector,
    )
    return x, y, trial


def test_report_parallel_coordinates_tell_which_trial_is_under_the_mouse(reader: Reader) -> None:
    reader.open("good")
    x, y, trial = line_middle(reader, ".only-wide .parallel .trial.best")
    reader.point(x, y)
    assert reader.find("#readout").text.startswith(f"{trial} · fine-tune")
    lit = {shape.get_attribute("data-trial") for shape in reader.all("[data-trial].on")}
    assert lit == {trial}
    assert len(reader.all("[data-trial].on")) >= 5  # line, row, marks and bar


def test_report_parallel_coordinates_on_a_phone_stand_upright_and_answer_a_finger(reader: Reader) -> None:
    reader.open("good", PHONE)
    assert not reader.find(".only-wide .parallel").is_displayed()
    x, y, trial = line_middle(reader, ".only-narrow .parallel .trial.best")
    reader.tap(x, y)
    assert reader.find("#readout").text.startswith(trial)


def test_report_confusion_matrix_of_a_hundred_classes_names_a_cell_under_the_mouse(reader: Reader) -> None:
    reader.open("hundred")
    x, y, tip = reader.run(
        """const cell = document.querySelector('.confusion rect.w4'); cell.scrollIntoView({block: 'center'});
        const box = cell.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2, cell.dataset.tip];"""
    )
    reader.point(x, y)
    shown = reader.find("#tip")
    assert shown.is_displayed()
    assert shown.text == tip
    assert "predicted as species" in tip


def test_report_without_scripts_is_complete_and_follows_the_system(reader: Reader) -> None:
    reader.open("good", dark=True, scripts=False)
    try:
        assert not reader.find("#theme").is_displayed()
        assert not reader.find("#readout").is_displayed()
        assert len(reader.all("main > section")) == 9
        assert len(reader.all("table.trials tbody tr")) == 64
        assert reader.find("body").value_of_css_property("background-color") == "rgba(20, 22, 26, 1)"
    finally:
        reader.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_report_with_hostile_names_runs_none_of_them(reader: Reader) -> None:
    reader.open("failed")
    assert reader.run("return document.scripts.length") == 1
    assert reader.all("main img[src='x'], main b, main svg [onload]") == []
    assert "<script>alert('class')</script>" in reader.find("main").text


def test_report_in_a_folder_named_by_a_digest_writes_it_into_the_commands(reader: Reader) -> None:
    digest = "0123456789abcdef" * 4
    (reader.folder / digest).mkdir()
    (reader.folder / digest / "report.html").write_text(render_report(good_run()), encoding="utf-8")
    reader.open(f"{digest}/report")
    commands = [block.text for block in reader.all("#serve pre")]
    assert f"tunesmith predict s3://models/models/flowers/{digest} photo.jpg --explain maps/" in commands


@pytest.mark.parametrize("name", RUNS)
def test_report_can_be_read_by_ear(reader: Reader, name: str) -> None:
    reader.open(name)
    levels: list[int] = reader.run(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
    )
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert reader.all("img:not([alt]), img[alt='']") == []
    assert reader.run("return [...document.querySelectorAll('table')].filter(t => !t.caption).length") == 0
    assert reader.all("svg.chart:not([aria-label]):not([aria-hidden])") == []
    assert reader.run("return document.documentElement.lang") == "en"


def test_report_shows_where_the_keyboard_is(reader: Reader) -> None:
    reader.open("good")
    for _ in range(3):  # the skip link, the theme button, the first section's link
        reader.driver.switch_to.active_element.send_keys(Keys.TAB)
        focused = reader.driver.switch_to.active_element
        assert focused.tag_name in ("a", "button")
        assert focused.value_of_css_property("outline-style") == "solid"


@pytest.mark.parametrize("name", RUNS)
def test_report_draws_every_picture(reader: Reader, name: str) -> None:
    reader.open(name)
    broken = reader.run(
        "return [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    )
    assert broken == []
    assert reader.all("main img")
