"""A run in a notebook: in a real kernel where one is installed, else its drawing alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.experiments import planned
from tunerun.comparison.results import TrialResult
from tunerun.job import JobState, Snapshot
from tunerun.runner.bars import NOTEBOOK_INTERVAL_S, NotebookProgress

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[2]

CELL = """
from pathlib import Path
from tests.experiments import planned
from tests.scripted import right_when_tuned
from tunerun import run
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

service = ScriptedService(answers=right_when_tuned)
plan = planned(Path({folder!r}), "seed=0,1")
run(plan, open_backend=lambda *_: ScriptedBackend(service), poll_interval_s=0)
"""


def test_the_bars_of_a_cell_are_drawn_in_place(tmp_path: Path) -> None:
    """Each drawing replaces the previous one, a few times a second; lines of finished trials and notes remain."""
    trials = planned(tmp_path, "seed=0,1").trials
    now, shown = [0.0], [""]

    def show(text: str) -> None:
        shown.append(text)

    with NotebookProgress(show, lambda: now[0]) as progress:
        progress.preparing(["base"])
        progress.planned(trials)
        for trial in trials:
            progress.started(trial)
            for step in range(1, trial.steps + 1):
                now[0] += NOTEBOOK_INTERVAL_S / 10
                progress.stepped(trial, Snapshot(step, 1, 1 / step, now[0]))
            result = TrialResult(trial.record(), JobState.SUCCEEDED, {"validation/loss": 0.5}, None, None, None)
            progress.finished(trial, result)
        progress.note("look here [not markup]")
    steps = sum(trial.steps for trial in trials)
    assert len(shown) < steps / 5
    assert any("trial 0 seed=0" in text and "━" in text and "0/2 trials done" in text for text in shown)
    assert shown[-1].splitlines() == [
        "trial 0 seed=0: SUCCEEDED, validation loss 0.500",
        "trial 1 seed=1: SUCCEEDED, validation loss 0.500",
        "note: look here [not markup]",
    ]
    assert not any("\x1b" in text for text in shown)


def test_a_run_in_a_real_notebook(tmp_path: Path) -> None:
    """The cell shows the outcome of each trial and the result as a table, and nothing else."""
    nbformat: Any = pytest.importorskip("nbformat", reason="no notebook is installed here")
    nbclient: Any = pytest.importorskip("nbclient", reason="no notebook is installed here")
    pytest.importorskip("ipykernel", reason="no notebook is installed here")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(folder=str(tmp_path)))])
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(REPOSITORY)}}).execute()
    outputs = notebook.cells[0].outputs
    assert [output["output_type"] for output in outputs] == ["display_data", "execute_result"], outputs
    bars, result = outputs
    assert "trial 1 seed=1: SUCCEEDED" in bars["data"]["text/html"]
    assert result["data"]["text/plain"].startswith("<SweepResult numbers-")
    assert '<div class="tunerun-comparison"><table>' in result["data"]["text/html"]
