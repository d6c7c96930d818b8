"""How long the report of a large sweep takes to make and to open."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from tests.comparison import verdicts
from tests.comparison.report.sources import sources, unlike
from tests.service import browser
from tunerun.comparison.report import build, render
from tunerun.comparison.table import ComparisonTable

OPENED = 5


def run() -> list[str]:
    """Make the page of 200 trials and 500 rows, no answer like another, and open it until everything is drawn."""
    verdict = verdicts.large_verdict()
    found, table = unlike(sources(verdict)), ComparisonTable.of(verdict)
    started = time.perf_counter()
    page = render(build(verdict, found), table).encode()
    made = time.perf_counter() - started
    line = f"report of 200 trials x 500 rows: made in {made:.1f} s, {len(page) / 1e6:.2f} MB (goal 5 MB)"
    if not (browser.CHROMIUM and browser.DRIVER):
        return [f"{line}; {browser.MISSING}, so it was not opened"]
    with tempfile.TemporaryDirectory() as folder, browser.driver(Path(folder) / "profile") as driver:
        file = Path(folder) / "report.html"
        file.write_bytes(page)
        window = browser.Browser(driver, f"file://{file}")
        seconds = []
        for _ in range(OPENED):
            window.open("")
            window.until(lambda: window.script("return document.documentElement.dataset.ready") == "true", "drawn")
            # Until the frame after the last drawing is shown.
            shown = "const done = arguments[0]; requestAnimationFrame(() => setTimeout(() => done(performance.now())))"
            seconds.append(driver.execute_async_script(shown) / 1000)
    times = f"first {seconds[0]:.2f} s, median {statistics.median(seconds):.2f} s of {OPENED}"
    return [line, f"the same opened in Chromium: {times} (goal 2 s)"]
