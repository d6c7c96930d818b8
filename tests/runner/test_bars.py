"""Progress on stderr: few lines for a log, bars for a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.experiments import planned
from tunerun.comparison.results import TrialResult
from tunerun.job import JobState, Snapshot
from tunerun.runner.bars import LINE_INTERVAL_S, MOST_BARS, BarProgress, LineProgress


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seconds_a_step", [0.1, LINE_INTERVAL_S / 4, 2 * LINE_INTERVAL_S])
def test_a_log_has_a_line_an_epoch_and_few_between(tmp_path: Path, seconds_a_step: float) -> None:
    """The last step of each epoch has a line, other steps only after a while."""
    trial = planned(tmp_path, "hyperparameters.epoch_count=2", "hyperparameters.batch_size=3").trials[0]
    clock, log = Clock(), io.StringIO()
    progress = LineProgress(Console(file=log, width=200), clock)
    progress.started(trial)
    for step in range(1, trial.steps + 1):
        clock.now += seconds_a_step
        progress.stepped(trial, Snapshot(step, (step - 1) // 10 + 1, 0.5, clock.now))
    steps = [int(line.split("step ")[1].split("/")[0]) for line in log.getvalue().splitlines()[1:]]
    expected = {0.1: [10, 20], LINE_INTERVAL_S / 4: [4, 8, 10, 14, 18, 20], 2 * LINE_INTERVAL_S: [*range(1, 21)]}
    assert steps == expected[seconds_a_step]


def test_a_terminal_shows_the_whole_sweep_above_its_trials(tmp_path: Path) -> None:
    """A bar counts finished trials and all steps; long notes wrap at words."""
    trials = planned(tmp_path, "seed=0,1,2").trials
    screen = io.StringIO()
    progress = BarProgress(Console(file=screen, force_terminal=True, width=90, color_system=None))
    with progress:
        progress.planned(trials)
        progress.started(trials[0])
        progress.stepped(trials[0], Snapshot(3, 1, 0.5, 0.0))
        progress.finished(trials[0], TrialResult(trials[0].record(), JobState.FAILED, {}, None, None, None))
        progress.started(trials[1])
        progress.stepped(trials[1], Snapshot(2, 1, 0.25, 0.0))
        progress.note("word " * 30)
    last = screen.getvalue().rstrip().splitlines()
    sweep = next(i for i in reversed(range(len(last))) if "1/3 trials done" in last[i])
    assert "sweep" in last[sweep]
    assert "trial 1 seed=1" in last[sweep + 1]
    assert f"2/{trials[1].steps} epoch 1 mean loss 0.25" in last[sweep + 1]
    assert "trial 0 seed=0: FAILED" in screen.getvalue()
    assert not [line for line in last if line.endswith(" wor")]


def test_a_terminal_has_room_for_trials_that_train(tmp_path: Path) -> None:
    """An engine receives a whole sweep at once: a waiting trial gives its bar up to one that trains."""
    trials = planned(tmp_path, f"seed={','.join(map(str, range(MOST_BARS + 2)))}").trials
    screen = io.StringIO()
    progress = BarProgress(Console(file=screen, force_terminal=True, width=90, height=40, color_system=None))
    with progress:
        progress.planned(trials)
        for trial in trials:
            progress.started(trial)
        progress.stepped(trials[-1], Snapshot(3, 1, 0.5, 0.0))
    last = screen.getvalue().rstrip().splitlines()
    sweep = next(i for i in reversed(range(len(last))) if "trials done" in last[i])
    shown = last[sweep + 1 : sweep + 1 + MOST_BARS]
    assert [f"trial {trial.number} " in "".join(shown) for trial in trials] == [
        False, *[True] * (MOST_BARS - 1), False, True
    ]  # fmt: skip
