"""The stages of a plan on stderr, and in the order in which it reaches them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments import overrides
from tunerun.cli.stages import Stages
from tunerun.compose import load
from tunerun.planning import plan
from tunerun.testing.waiting import wait_until

pytestmark = pytest.mark.process


def test_a_stage_is_printed_once_while_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    """It is on stderr, and nothing is printed after the end."""
    printed: list[str] = []

    def has_printed(text: str) -> bool:
        printed.append(capsys.readouterr().err)
        return text in "".join(printed)

    with Stages(interval_s=0.001) as stages:
        stages("reading [a].csv")
        wait_until(lambda: has_printed("reading [a].csv ...\n"), "the first stage")
        stages("counting")
        wait_until(lambda: has_printed("counting ...\n"), "the second stage")
    assert "".join(printed).count("reading") == 1


def test_a_plan_that_is_done_at_once_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed before the first interval has passed."""
    with Stages() as stages:
        stages("reading")
    assert capsys.readouterr().err == ""


def test_a_plan_reports_its_stages(tmp_path: Path) -> None:
    """The stages go from reading the files to counting tokens."""
    stages: list[str] = []
    plan(load(overrides(tmp_path)), progress=stages.append)
    assert [stage.split()[0] for stage in stages] == [
        *["reading", "rendering", "reading", "rendering"],
        *["looking", "counting"],
    ]
    assert "30 rows" in stages[1]
