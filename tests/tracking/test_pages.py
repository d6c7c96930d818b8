"""What comes from users' files stays text on MLflow's own pages, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.browser import CHROMIUM, DRIVER, MISSING, Browser, driver
from tests.tracking.content import run_of
from tests.tracking.served import free_port, server
from tests.tracking.sweeps import freeze
from tunerun.job import FailureKind
from tunerun.ledger import Ledger
from tunerun.tracking import Tracker

PLANTED = '"\'></td><img src=x onerror="window.planted=1"><script>window.planted=1</script>'


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING)
def test_html_in_names_and_rows_stays_text(ledger: Ledger, uri: str, tmp_path: Path) -> None:
    """No script of a value, a row, an answer, a message or a file name runs on any page of MLflow that shows it."""
    lab = freeze(
        ledger,
        points=[{"template": PLANTED, "seed": 0}, {"template": f"```\n{PLANTED}\n```", "seed": 1}],
        document={"command": f"tunerun run {PLANTED}", "mlflow_experiment": f"faq {PLANTED}"},
        rows=[PLANTED, f"# {PLANTED}", f"[x](javascript:window.planted=1) {PLANTED}"],
    )
    lab.start(0)
    lab.succeed(0)
    trial = lab.trials[0]
    ledger.record_answers(trial.key, str(trial.validation), trial.asked, [PLANTED] * 2)
    lab.start(1)
    lab.fail(1, f"```\n{PLANTED}", FailureKind.DIVERGED)
    lab.measure_base()
    tracker = Tracker(ledger.path, uri)
    assert tracker.sync().problem is None
    run, failed, sweep = (run_of(uri, "trial", 0), run_of(uri, "trial", 1), run_of(uri, "sweep"))
    runs = f"/#/experiments/{run.info.experiment_id}/runs"
    one = f"{runs}/{run.info.run_id}"
    link = f"/{tracker.link(ledger, lab.sweep.id)}"
    pages = {
        link: "eval/exact_match",
        f"{link}&compareRunsMode=CHART": "Result\n(",
        f"{link}-answers&compareRunsMode=ARTIFACT": "Compare:\nanswer",
        one: "tunerun.key",
        f"{one}/artifacts/predictions.json": "answer",
        f"{runs}/{failed.info.run_id}": "tunerun.attempt",
        f"{runs}/{sweep.info.run_id}": "tunerun.best",
        f"{runs}/{sweep.info.run_id}/artifacts/report.html": "report.html",
        f"{runs}/{sweep.info.run_id}/artifacts/record": "results.json.gz",  # where a trial's description leads
    }
    with server(uri, port := free_port()), driver(tmp_path / "profile") as chrome:
        browser = Browser(chrome, f"http://127.0.0.1:{port}")
        for path, shown in pages.items():
            browser.open("/version")  # a change behind the # alone loads nothing
            browser.open(path)
            browser.until(lambda: shown in str(browser.script("return document.body.innerText")), f"{path}: {shown}")  # noqa: B023
            assert browser.script("return window.planted") is None, path
            assert not browser.is_there("img[src='x']"), path
