"""The page of a report in a real Chromium: what is drawn, what a keyboard reaches, what fits on a phone and on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.comparison import verdicts
from tests.comparison.report.sources import HOSTILE, sources
from tests.service import browser
from tests.service.browser import Browser
from tunerun.comparison.report import build, render
from tunerun.comparison.results import Verdict
from tunerun.comparison.table import ComparisonTable

pytestmark = pytest.mark.skipif(not (browser.CHROMIUM and browser.DRIVER), reason=browser.MISSING)

PLOTS = ("#interval-plot", "#axis-plot", "#curve-plot")
PHONE = 360


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with browser.driver(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(driver: webdriver.Chrome, tmp_path: Path) -> Iterator[Browser]:
    """A wide window, whose console stays quiet and which requests nothing whatever a test does."""
    page = Browser(driver, f"file://{tmp_path}/")
    page.be_wide(1280)
    page.open("")
    page.complaints()
    yield page
    assert page.complaints() == []
    assert page.script("return performance.getEntriesByType('resource').length") == 0


def show(page: Browser, verdict: Verdict, wrong: tuple[str, ...] = ("I do not know", "two", "")) -> None:
    html = render(build(verdict, sources(verdict, wrong)), ComparisonTable.of(verdict))
    Path(page.address.removeprefix("file://"), "report.html").write_bytes(html.encode())
    page.open("report.html")
    page.until(lambda: page.script("return document.documentElement.dataset.ready") == "true", "it is ready")


def ink(page: Browser, plot: str) -> int:
    """Return the number of pixels of a plot that are drawn."""
    count = page.script(
        f"const c = document.querySelector('{plot} canvas'); if (!c) return 0;"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n"
    )
    assert isinstance(count, int)
    return count


def choose(page: Browser, selector: str, index: int) -> None:
    page.script(
        f"const s = document.querySelector('{selector}'); s.selectedIndex = {index}; s.dispatchEvent(new Event('change'))"
    )


def rows(page: Browser) -> int:
    return len(page.all("#answer-table tbody tr"))


def test_everything_is_drawn(page: Browser) -> None:
    """The sentence is there, every plot has ink, each choice of a plot draws another one."""
    verdict = verdicts.demo_verdict()
    show(page, verdict)
    assert page.text(".sentence") == verdict.sentence
    assert all(ink(page, plot) > 1000 for plot in PLOTS)
    for selector, plot in (("#interval-choice", PLOTS[0]), ("#axis-choice", PLOTS[1])):
        for index in range(len(page.all(f"{selector} option"))):
            choose(page, selector, index)
            assert ink(page, plot) > 1000


@pytest.mark.parametrize(
    "make",
    [verdicts.incomplete_verdict, verdicts.failed_verdict, verdicts.nothing_held_out_verdict, verdicts.two_sweeps_verdict],
)  # fmt: skip
def test_a_verdict_with_little_to_show(page: Browser, make: object) -> None:
    """A part that is missing has no section, and nothing fails."""
    assert callable(make)
    show(page, make())
    assert not page.one("#problem").is_displayed()


def test_curves_are_switched(page: Browser) -> None:
    """Training, validation and each curve can be hidden; the scale can be logarithmic."""
    show(page, verdicts.demo_verdict())
    whole = ink(page, "#curve-plot")
    page.click("#curve-none")
    empty = ink(page, "#curve-plot")
    assert page.text("#curve-count") == "0 of 4"
    page.click("#curve-choices input")
    single = ink(page, "#curve-plot")
    assert empty < single < whole
    page.click("#curve-training")
    assert empty < ink(page, "#curve-plot") < single
    page.click("#curve-tied")
    assert page.text("#curve-count") == "4 of 4"
    linear = page.script("return Chart.getChart(document.querySelector('#curve-plot canvas')).scales.y.type")
    page.click("#curve-log")
    logarithmic = page.script("return Chart.getChart(document.querySelector('#curve-plot canvas')).scales.y.type")
    assert (linear, logarithmic) == ("linear", "logarithmic")


def test_answers_are_filtered_searched_and_paged(page: Browser) -> None:
    """Twenty rows a page; the filter looks at the columns that are shown, the search at every text of a row."""
    show(page, verdicts.demo_verdict())
    assert (rows(page), page.text("#answer-status"), page.text("#page-place")) == (
        20,
        "24 of 24 rows",
        "rows 1 to 20 of 24",
    )
    page.click("#page-after")
    assert (rows(page), page.text("#page-place")) == (4, "rows 21 to 24 of 24")
    choose(page, "#answer-filter", 3)
    assert (rows(page), page.text("#answer-status")) == (1, "1 of 24 rows")
    assert page.all("#answer-table .is-right") == []
    choose(page, "#answer-filter", 1)
    assert page.text("#answer-status") == "23 of 24 rows"
    page.type("#answer-search", "ELEVEN")
    status = page.text("#answer-status")
    assert status.endswith("of 24 rows")
    assert 0 < rows(page) < 5
    assert {mark.text for mark in page.all("#answer-table mark")} == {"eleven"}
    page.type("#answer-search", "no such text anywhere")
    assert (rows(page), page.text("#page-place")) == (0, "no such rows")


def test_columns_of_answers_are_chosen(page: Browser) -> None:
    """A column is added or removed by its box, and the filter follows."""
    show(page, verdicts.demo_verdict())
    heads = [head.text for head in page.all("#answer-table thead th")]
    assert heads == ["row", "input", "expected", "point 0", "base+4", "base", "point 1", "point 2", "point 3"]
    page.click("#answer-columns summary")
    for box in page.all("#column-choices input:checked")[1:]:
        box.click()
    assert [head.text for head in page.all("#answer-table thead th")] == heads[:4]
    choose(page, "#answer-filter", 3)
    assert page.text("#answer-status") == "9 of 24 rows"


def test_answers_of_replicates_are_counted(page: Browser) -> None:
    """A cell says how many of the seeds gave an answer."""
    show(page, verdicts.replicates_verdict())
    assert {each.text for each in page.all("#answer-table .seeds")} <= {f"{n} of 3 seeds" for n in (1, 2, 3)}
    assert page.all("#answer-table .seeds")


def test_hostile_answers_are_text(page: Browser) -> None:
    """Tags in answers are shown, not obeyed; characters that cannot be seen are shown as codes."""
    show(page, verdicts.demo_verdict(), HOSTILE)
    page.type("#answer-search", "u+")
    page.type("#answer-search", "<")
    assert page.script("return window.isBroken") is None
    assert "<img src=x onerror=" in page.text("#answer-table")
    page.type("#answer-search", "half a character")
    assert {code.text for code in page.all("#answer-table .code")} >= {"U+202E", "U+0000", "U+001B", "U+D800"}


def test_by_keyboard_alone(page: Browser) -> None:
    """Tab reaches every control with a visible focus; arrow keys go from mark to mark, and each is read out."""
    show(page, verdicts.demo_verdict())
    reached = set()
    for _ in range(60):
        page.keys(Keys.TAB)
        active = page.driver.switch_to.active_element
        reached.add(active.get_attribute("id") or active.tag_name)
        assert active.value_of_css_property("outline-style") == "solid"
        if (
            active.tag_name == "canvas"
            and "canvas" in reached
            and not page.one("#announcer").get_property("textContent")
        ):
            page.keys(Keys.ARROW_DOWN)
            assert "+58 points against base+4" in str(page.one("#announcer").get_property("textContent"))
            page.keys(Keys.ARROW_DOWN)
            assert str(page.one("#announcer").get_property("textContent")).startswith(
                "0: learning_rate 0.001, 5 epochs"
            )
        if page.focused() == "page-after":
            break
    assert {
        "canvas",
        "interval-choice",
        "axis-choice",
        "curve-log",
        "answer-filter",
        "answer-search",
        "page-after",
    } <= reached
    page.keys(Keys.ENTER)
    assert page.text("#page-place") == "rows 21 to 24 of 24"


def test_a_phone(page: Browser) -> None:
    """At 360 pixels nothing is wider than the window, however long its words; each row of answers is a card."""
    page.be_wide(PHONE)
    show(page, verdicts.demo_verdict(), ("w" * 300, "two", ""))
    assert page.overflow() == 0
    assert all(ink(page, plot) > 1000 for plot in PLOTS)
    assert page.one("#answer-table thead").is_displayed() is False
    for summary in page.all("details:not([open]) > summary"):
        summary.click()
    assert page.overflow() == 0


def test_light_and_dark(page: Browser) -> None:
    """The page has the system's colours, and its plots change with them."""
    show(page, verdicts.demo_verdict())
    colours = []
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        page.until(
            lambda: (
                page.script(
                    "return Chart.getChart(document.querySelector('#axis-plot canvas')).data.datasets[0].borderColor =="
                    "getComputedStyle(document.documentElement).getPropertyValue('--series').trim().split(' ')[0]"
                )
                is True
            ),
            "the plot has the colours of the page",
        )
        colours.append(page.one("body").value_of_css_property("background-color"))
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colours == ["rgba(244, 245, 247, 1)", "rgba(20, 23, 29, 1)"]


def test_a_printed_page(page: Browser) -> None:
    """It is in light colours, without its controls."""
    show(page, verdicts.demo_verdict())
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    assert not any(each.is_displayed() for each in page.all("nav, .controls, button, input"))
    assert page.one("main").value_of_css_property("color") == "rgba(29, 35, 48, 1)"
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    printed = base64.b64decode(page.driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")


def test_200_points(page: Browser) -> None:
    """The thirty best are drawn, and all on request; the page stays usable."""
    show(page, verdicts.large_verdict())
    assert page.text("#interval-all") == "Show all 200 points"
    few = page.one("#interval-plot").size["height"]
    page.click("#interval-all")
    assert page.one("#interval-plot").size["height"] > 4 * few
    assert page.text("#curve-count") == "8 of 200"
    page.click("#curve-points summary")
    page.click("#curve-all")
    assert page.text("#curve-count") == "200 of 200"


def test_in_a_frame_that_may_run_scripts_only(page: Browser) -> None:
    """MLflow shows an HTML artifact in such a frame: without an origin, storage or addresses of its own."""
    verdict = verdicts.demo_verdict()
    html = render(build(verdict, sources(verdict)), ComparisonTable.of(verdict))
    folder = Path(page.address.removeprefix("file://"))
    (folder / "outer.html").write_text(
        f'<!doctype html><link rel="icon" href="data:,"><iframe sandbox="allow-scripts" srcdoc="{escape(html)}"></iframe>'
    )
    page.open("outer.html")
    page.driver.switch_to.frame(0)
    page.until(lambda: page.script("return document.documentElement.dataset.ready") == "true", "it is ready")
    assert all(ink(page, plot) > 1000 for plot in PLOTS)
    page.driver.switch_to.default_content()
