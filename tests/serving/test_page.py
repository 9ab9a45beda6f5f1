"""The page at / in a real browser, asking a real predictor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait
from tests.testbed.browser import CONTRAST, DESKTOP, PHONE, running_chromium, show_as
from tests.testbed.predictors import NAME, Server, running_predictor
from tests.testbed.tiny_package import picture

from tunesmith_predictor.page import page

SECONDS = 20


@pytest.fixture(scope="module")
def watched(package_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("page") / "log"
    with running_predictor(package_directory, log, "--feedback") as server:
        yield server


@pytest.fixture(scope="module")
def browser(watched: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with running_chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "green.jpg"
    path.write_bytes(picture("green", format="JPEG"))
    return path


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.http_port}/"


def open_page(
    browser: webdriver.Chrome, server: Server, size: tuple[int, int] = DESKTOP, *, dark: bool = False
) -> None:
    show_as(browser, size, dark=dark)
    browser.get(address(server))
    wait_for_text(browser, "#about", "3 classes")


def text(browser: webdriver.Chrome, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def wait_for_text(browser: webdriver.Chrome, selector: str, part: str) -> None:
    WebDriverWait(browser, SECONDS).until(lambda _: part in text(browser, selector), f"{selector}: {part}")


def choose(browser: webdriver.Chrome, path: Path) -> None:
    browser.find_element(By.ID, "file").send_keys(str(path))


def test_a_photo_gets_classes_probabilities_and_its_activation_map(
    browser: webdriver.Chrome, watched: Server, photo: Path
) -> None:
    open_page(browser, watched)
    choose(browser, photo)
    wait_for_text(browser, "#classes li", "green")
    classes = [one.text.split("\n")[0] for one in browser.find_elements(By.CSS_SELECTOR, "#classes li")]
    assert sorted(classes) == ["blue", "green", "red"]
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.stage img')].map((one) => [one.naturalWidth, one.hidden])"
    )
    assert shown == [[48, False], [32, False]], "the photo itself, and the map at the model's size"
    browser.find_element(By.ID, "show-map").click()
    assert not browser.find_element(By.ID, "map").is_displayed()


def test_a_click_on_a_class_explains_it(browser: webdriver.Chrome, watched: Server, photo: Path) -> None:
    open_page(browser, watched)
    choose(browser, photo)
    wait_for_text(browser, "#map-label", "green")
    [red] = [one for one in browser.find_elements(By.CSS_SELECTOR, ".class") if "red" in one.text]
    red.click()
    wait_for_text(browser, "#map-label", "red")
    assert text(browser, '.class[aria-pressed="true"]').startswith("red")


def test_the_truth_is_told_and_monitoring_shows_it(
    browser: webdriver.Chrome, watched: Server, photo: Path
) -> None:
    open_page(browser, watched)
    choose(browser, photo)
    wait_for_text(browser, "#feedback", "In truth")
    Select(browser.find_element(By.ID, "truth")).select_by_value("blue")
    browser.find_element(By.ID, "tell").click()
    wait_for_text(browser, "#told", "Taken")
    wait_for_text(browser, "#tests", "0.0 % of 1")
    assert "different images so far" in text(browser, "#tests")


def test_what_is_no_image_gets_the_servers_sentence_and_no_old_answer(
    browser: webdriver.Chrome, watched: Server, photo: Path, tmp_path: Path
) -> None:
    open_page(browser, watched)
    choose(browser, photo)
    wait_for_text(browser, "#classes", "green")
    wrong = tmp_path / "words.jpg"
    wrong.write_text("no image")
    choose(browser, wrong)
    wait_for_text(browser, "#error", "image")
    assert not browser.find_elements(By.CSS_SELECTOR, "#classes li")
    assert not browser.find_element(By.ID, "map").is_displayed()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_never_scrolls_sideways(
    browser: webdriver.Chrome, watched: Server, photo: Path, size: tuple[int, int]
) -> None:
    open_page(browser, watched, size)
    choose(browser, photo)
    wait_for_text(browser, "#classes", "green")
    widths = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert widths == [size[0], size[0]]


def test_the_page_asks_its_own_server_only_and_says_nothing_on_the_console(
    browser: webdriver.Chrome, watched: Server, photo: Path
) -> None:
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # type: ignore[no-untyped-call]
    open_page(browser, watched)
    choose(browser, photo)
    wait_for_text(browser, "#classes", "green")
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    events = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    requested = {
        one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"
    }
    local = {url for url in requested if not url.startswith(("data:", "blob:"))}
    assert local
    assert all(url.startswith(address(watched)) for url in local), local


def test_the_policy_stops_a_script_that_slipped_in(browser: webdriver.Chrome, watched: Server) -> None:
    open_page(browser, watched)
    browser.execute_script(
        "const one = document.createElement('script'); one.textContent = 'window.slipped = true';"
        "document.body.append(one)"
    )
    assert browser.execute_script("return window.slipped === undefined")
    assert any("script-src" in one["message"] for one in browser.get_log("browser"))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(
    browser: webdriver.Chrome, watched: Server, photo: Path, dark: bool
) -> None:
    open_page(browser, watched, dark=dark)
    choose(browser, photo)
    wait_for_text(browser, "#classes", "green")
    checked, weak = browser.execute_script(CONTRAST.read_text(encoding="utf-8"))
    assert checked > 15
    assert weak == []


def test_a_models_name_is_text_whatever_it_holds() -> None:
    text, headers = page('"><script>alert(1)</script>')
    assert "<script>alert" not in text
    assert "'unsafe-inline'" not in headers["content-security-policy"]
    assert NAME not in text
