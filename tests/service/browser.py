"""A real browser: the system's Chromium without a window, driven by its own driver; nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tunerun.testing.waiting import DEADLINE_S

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "Debian's packages chromium and chromium-driver are not installed"

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
_MOST_TABS = 60


class Browser:
    """What a person does at the page, and sees of it."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self, path: str = "/") -> None:
        self.driver.get(self.address + path)

    def be_wide(self, pixels: int) -> None:
        """Have a window's inner width, also one that no real window can have."""
        size = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    # Seeing

    def one(self, selector: str) -> WebElement:
        """The first element of a selector, as soon as it is there."""
        self.until(lambda: bool(self.all(selector)), f"{selector} is there")
        return self.all(selector)[0]

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def is_there(self, selector: str) -> bool:
        return bool(self.all(selector))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        WebDriverWait(self.driver, DEADLINE_S, poll_frequency=0.05).until(lambda _driver: condition(), what)

    def script(self, text: str) -> object:
        result: object = self.driver.execute_script(text)
        return result

    def overflow(self) -> object:
        """Pixels by which the page is wider than the window."""
        return self.script("const r = document.documentElement; return r.scrollWidth - r.clientWidth")

    def complaints(self) -> list[str]:
        """What the browser's console has had to say since this was asked last."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call] # as above
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    # Doing

    def click(self, selector: str) -> None:
        self.one(selector).click()

    def type(self, selector: str, text: str) -> None:
        """Replace the text of a box."""
        box = self.one(selector)
        box.clear()
        box.send_keys(text)

    def keys(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_back(self) -> None:
        ActionChains(self.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()

    def tab_to(self, identifier: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(_MOST_TABS):
            if self.focused() == identifier:
                return
            self.keys(Keys.TAB)
        raise AssertionError(f"{identifier} cannot be reached by Tab")

    def focused(self) -> str:
        return self.driver.switch_to.active_element.get_attribute("id") or ""


@contextmanager
def driver(folder: Path) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own in a folder."""
    assert CHROMIUM is not None
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*_FLAGS.split(), f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield chrome
    finally:
        chrome.quit()
