"""The page "My library" in a real Chromium: scripts, the keyboard, and a phone's screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.rigs.running_service import RunningService
from tests.service import browser
from tests.service.browser import Browser
from tests.service.visitor import FOREVER, Visitor, table, visiting

pytestmark = pytest.mark.skipif(not (browser.CHROMIUM and browser.DRIVER), reason=browser.MISSING)

PHONE = 360


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with browser.driver(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def visitor(running: RunningService) -> Iterator[Visitor]:
    """The user whose key is typed into the browser; also signed in over HTTP, to check and to delete."""
    with visiting(running, "browser@localhost") as visitor:
        visitor.sign_in()
        yield visitor


@pytest.fixture
def page(driver: webdriver.Chrome, running: RunningService) -> Iterator[Browser]:
    """The page, signed out; a test must not cause messages in the console."""
    page = Browser(driver, running.address)
    page.be_wide(1280)
    page.open()
    driver.delete_all_cookies()
    page.open()
    page.complaints()
    yield page
    assert page.complaints() == []


def sign_in(page: Browser, visitor: Visitor) -> None:
    page.type("#key", visitor.secret)
    page.click("main button")
    page.one("#file")


def send(page: Browser, file: Path, content: str) -> None:
    file.write_text(content)
    page.one("#file").send_keys(str(file))
    page.click("form[action='/files'] button")
    page.one("#epoch_count")


def start(page: Browser, identifier: str, **typed: str) -> None:
    for name, text in {"identifier": identifier, **typed}.items():
        page.type(f"#{name}", text)
    page.click("form[action$='/tune'] button")
    page.one(f"#model-{identifier}")


def steps(page: Browser, identifier: str) -> int:
    return int(page.text(f"#model-{identifier} [data-part=progress]").partition(" of ")[0].replace(",", ""))


def drawn(page: Browser, identifier: str) -> object:
    """Return how many pixels of the curve's canvas are drawn."""
    return page.script(
        f"const c = document.querySelector('#model-{identifier} canvas'); if (!c) return 0;"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return d.filter((v, i) => i % 4 === 3 && v > 0).length"
    )


def test_a_file_is_tuned_on_and_the_model_answers(page: Browser, visitor: Visitor, tmp_path: Path) -> None:
    """Without loading the page again: the curve grows until the model can be tried."""
    sign_in(page, visitor)
    rows = [["note", one, two] for one, two in (("1", "2"), ("3", "4"), ("twenty two", "twenty three"), ("8", "9"))]
    send(page, tmp_path / "rows.csv", table(rows, ["note", "question", "answer"]))
    page.one("#input_column").send_keys("question")
    page.one("#output_column").send_keys("answer")
    start(page, "seen", display_name="Seen", epoch_count="400", batch_size="1", learning_rate="0.003")
    page.script("window.isTheSame = true")
    page.until(lambda: 0 < steps(page, "seen") < 1600, "the job is under way")
    before = steps(page, "seen")
    assert drawn(page, "seen")
    assert page.is_there("#model-seen[data-state=CREATING] #cancel-seen")
    page.until(lambda: steps(page, "seen") > before, "the curve grows")
    assert page.text("#model-seen [data-part=loss]") != "none yet"
    page.one("#model-seen[data-state=ACTIVE]")
    assert steps(page, "seen") == 1600
    assert page.text("#announcer") == "Seen is ACTIVE"
    assert drawn(page, "seen")
    assert not page.is_there("#cancel-seen")
    page.click("#try-seen")
    page.type("#prompt-seen", "twenty two")
    page.click("#ask-seen")
    page.until(lambda: len(page.all("#answers-seen pre")) == 2, "both answered")
    tuned, base = page.all("#answers-seen section")
    assert ("tunedModels/seen" in tuned.text, "models/tiny" in base.text) == (True, True)
    assert page.script("return window.isTheSame") is True
    examples = [(e.text_input, e.output) for e in visitor.service.state.examples(_key(visitor, "seen"))]
    assert examples == [(one, two) for _, one, two in rows]
    visitor.delete("seen")


def _key(visitor: Visitor, identifier: str) -> str:
    row = visitor.service.state.tuned_model(identifier)
    assert row is not None
    return row.key


def test_a_job_is_cancelled_and_its_model_deleted(page: Browser, visitor: Visitor, tmp_path: Path) -> None:
    """By their buttons; deleting has to be confirmed."""
    sign_in(page, visitor)
    send(page, tmp_path / "rows.csv", table())
    start(page, "long", epoch_count=FOREVER)
    page.until(lambda: steps(page, "long") > 0, "the job is under way")
    page.click("#cancel-long")
    page.one("#model-long[data-state=FAILED]")
    assert page.text("#model-long .state") == "FAILED, cancelled"
    assert not page.one("#model-long .danger").is_displayed()
    page.click("#delete-long")
    page.click("#model-long .danger")
    page.until(lambda: not page.is_there("#model-long"), "it is gone")
    assert visitor.card("long").status_code == 404


def test_a_model_that_is_deleted_elsewhere_disappears(page: Browser, visitor: Visitor) -> None:
    """Also while it is tuned, and without loading the page again."""
    visitor.start(identifier="brief", epoch_count=FOREVER)
    sign_in(page, visitor)
    page.one("#model-brief[data-state=CREATING]")
    visitor.delete("brief")
    page.until(lambda: not page.is_there("#model-brief"), "it is gone")
    assert page.text("#announcer") == "brief was deleted"


def test_two_models_in_one_chart_and_a_program_in_the_clipboard(page: Browser, visitor: Visitor) -> None:
    """Both curves are drawn, also on a phone, and a program is copied from a model's page by its button."""
    for identifier in ("one", "other"):
        visitor.tuned(identifier)
    sign_in(page, visitor)
    for width in (1280, PHONE):
        page.be_wide(width)
        page.open("/compare?one=one&other=other")
        page.one("#both canvas")
        assert [label.text for label in page.all("#both .u-label")] == ["Step", "one", "other"]
        assert page.overflow() == 0
    page.be_wide(1280)
    page.open("/library/one")
    page.click("[data-copy=code-openai-python]")
    page.until(lambda: page.text("[data-copy=code-openai-python]") == "Copied", "the program is copied")
    visitor.delete("one", "other")


def test_everything_is_reached_with_the_keyboard(page: Browser, visitor: Visitor, tmp_path: Path) -> None:
    """With Tab, from signing in to an answer; the focus is visible, and remains when a state changes."""
    assert page.focused() == "key"
    page.keys(visitor.secret, Keys.ENTER)
    page.one("#file")
    page.keys(Keys.TAB)
    assert page.driver.switch_to.active_element.text == "Skip to the content"
    page.keys(Keys.ENTER)
    page.tab_to("file")
    (tmp_path / "rows.csv").write_text(table())
    page.one("#file").send_keys(str(tmp_path / "rows.csv"))  # Enter opens a window of the system, which has none here
    page.tab_to("send")
    page.keys(Keys.ENTER)
    page.one("#epoch_count")
    for identifier, text in (
        ("input_column", "text"),
        ("output_column", "out"),
        ("base", "tiny"),
        ("display_name", "Typed"),
        ("identifier", "typed"),
        ("epoch_count", "400"),
        ("learning_rate", "0.003"),
    ):
        page.tab_to(identifier)
        page.keys(text)
        outline = page.driver.switch_to.active_element.value_of_css_property("outline-style")
        assert outline == "solid", f"{identifier} shows no focus"
    page.tab_to("begin")
    page.keys(Keys.SPACE)
    page.one("#model-typed")
    page.tab_to("delete-typed")
    page.one("#model-typed[data-state=ACTIVE]")
    assert page.focused() == "delete-typed"
    page.tab_back()
    assert page.focused() == "try-typed"
    page.keys(Keys.ENTER)
    page.tab_to("prompt-typed")
    page.keys("8")
    page.tab_to("ask-typed")
    page.keys(Keys.ENTER)
    page.until(lambda: len(page.all("#answers-typed pre")) == 2, "both answered")
    visitor.delete("typed")


def test_pages_fit_on_a_phone(page: Browser, visitor: Visitor, tmp_path: Path) -> None:
    """No page is wider than 360 pixels, however long its words; wide tables scroll in their box."""
    page.be_wide(PHONE)
    page.open()
    assert page.overflow() == 0
    sign_in(page, visitor)
    rows = [["1", "2", *["x" * 300] * 10]] * 3
    send(page, tmp_path / f"{'long' * 18}.csv", table(rows, [f"column{'y' * n}" for n in range(12)]))
    assert page.overflow() == 0
    assert page.script("const b = document.querySelector('.scroll'); return b.scrollWidth > b.clientWidth") is True
    start(page, "w" * 40, display_name="W" * 40, epoch_count="2")
    page.one(f"#model-{'w' * 40}[data-state=ACTIVE] canvas")
    assert page.overflow() == 0
    page.click("article h3 a")
    page.one("article h1")
    page.type("textarea", "8")
    page.click("article button.main")
    page.until(lambda: len(page.all(".answers pre")) == 2, "both answered")
    page.click("article [data-part=numbers] summary")
    page.click("article .confirm summary")
    assert page.overflow() == 0
    visitor.delete("w" * 40)


def test_a_file_that_is_too_large_is_not_sent(page: Browser, visitor: Visitor, tmp_path: Path) -> None:
    """The browser refuses a file over the limit, and accepts another one."""
    sign_in(page, visitor)
    large = tmp_path / "large.csv"
    large.write_bytes(b"a,b\n" * 2**20 + b"1")
    page.one("#file").send_keys(str(large))
    page.click("#send")
    assert page.one("#file").get_property("validationMessage") == "The file is over the limit of 4,194,304 bytes."
    send(page, tmp_path / "rows.csv", table())


def test_the_end_of_a_session_is_shown(page: Browser, visitor: Visitor) -> None:
    """An open page keeps what it shows, with a message."""
    visitor.start(identifier="open", epoch_count=FOREVER)
    sign_in(page, visitor)
    page.one("#model-open[data-state=CREATING]")
    page.driver.delete_all_cookies()
    page.until(lambda: "You are signed out" in page.text("#connection"), "the message is shown")
    assert page.is_there("#model-open")
    assert len(page.complaints()) == 1  # of the answer 401
    visitor.delete("open")


def test_the_page_follows_the_systems_colour_scheme(page: Browser, visitor: Visitor) -> None:
    """Light or dark."""

    def ground() -> str:
        return page.one("body").value_of_css_property("background-color")

    colours = []
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        colours.append(ground())
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colours == ["rgba(244, 245, 247, 1)", "rgba(20, 23, 29, 1)"]
