"""Live progress of a run: bars in a terminal and in a notebook, or plain lines for logs and pipes."""

from __future__ import annotations

import html
import io
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from tunerun.comparison import labels, numbers
from tunerun.comparison.results import LOSS, TrialResult
from tunerun.job import Snapshot
from tunerun.metrics import resolve
from tunerun.planning import Trial
from tunerun.runner.progress import Progress

LINE_INTERVAL_S = 30.0
"""Minimum seconds between two lines of one trial within an epoch; 120 lines an hour are still readable."""

SPEED_PERIOD_S = 3600.0
"""Seconds of history from which the remaining time is estimated; rich's default, 30, may not contain one slow step."""


MOST_BARS = 12
"""Maximum number of trials with their own bar, because an engine receives a whole sweep at once. Our choice: 12 bars
fit most terminals."""

NOTEBOOK_WIDTH = 100
"""Characters of a line in a notebook's cell."""

NOTEBOOK_INTERVAL_S = 0.2
"""Minimum seconds between two updates in a notebook: each one is a message to the browser and is kept in the file."""


def _title(trial: Trial) -> str:
    return escape(f"trial {trial.number} {labels.compact(trial.overrides)}".rstrip())


def _outcome(trial: Trial, result: TrialResult) -> str:
    parts = [str(result.state)]
    if LOSS in result.metrics:
        parts.append(f"validation loss {numbers.loss(result.metrics[LOSS])}")
    rows = len(trial.validation.examples) if trial.validation is not None else 0
    parts.extend(
        f"{metric.name.replace('_', ' ')} {numbers.measure(result.metrics[f'eval/{metric.name}'], metric.unit, rows)}"
        for metric in (resolve(trial.config.evaluation) if rows else ())
        if f"eval/{metric.name}" in result.metrics
    )
    if result.failure is not None:
        parts.append(f"{result.failure.kind}: {result.failure.message}")
    return escape(", ".join(parts))


class LineProgress(Progress):
    """Plain lines, for logs and pipes.

    Args:
        console: the lines are printed here.
        clock: returns seconds, to measure the time between two lines.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._last_line: dict[int, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to release."""

    def preparing(self, models: Sequence[str]) -> None:
        """Print the names of the base models that are being prepared."""
        self._console.print(f"preparing {', '.join(map(escape, models))}")

    def started(self, trial: Trial) -> None:
        """Print that a trial has started."""
        self._last_line[trial.number] = self._clock()
        self._console.print(f"{_title(trial)}: started, {trial.steps} steps")

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        """Print a trial's progress: after every epoch, and every `LINE_INTERVAL_S` within a long one."""
        now = self._clock()
        ends_epoch = snapshot.step * trial.config.hyperparameters.epoch_count % trial.steps == 0
        if ends_epoch or now - self._last_line.get(trial.number, now) >= LINE_INTERVAL_S:
            self._last_line[trial.number] = now
            self._console.print(
                f"{_title(trial)}: step {snapshot.step}/{trial.steps}, epoch {snapshot.epoch}, "
                f"mean loss {numbers.loss(snapshot.mean_loss)}"
            )

    def evaluating(self, subject: str) -> None:
        """Print what is being evaluated."""
        self._console.print(f"evaluating {subject}")

    def finished(self, trial: Trial, result: TrialResult) -> None:
        """Print a trial's outcome."""
        self._console.print(f"{_title(trial)}: {_outcome(trial, result)}")

    def note(self, text: str) -> None:
        """Print something that needs attention."""
        self._console.print(f"[yellow]note:[/] {escape(text)}")


class BarProgress(Progress):
    """A bar for the whole sweep, one for each running trial below it, and a line for each finished trial.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            speed_estimate_period=SPEED_PERIOD_S,
        )
        self._sweep: TaskID | None = None
        self._steps: dict[int, int] = {}  # steps taken so far, by trial number
        self._ended: set[int] = set()
        self._tasks: dict[int, TaskID] = {}
        self._aside: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def _beside(self, text: str | None) -> None:
        """Show an activity that is not a trial's training; None: remove it."""
        if self._aside is not None:
            self._bars.remove_task(self._aside)
        self._aside = None if text is None else self._bars.add_task(text, total=None, detail="")

    def preparing(self, models: Sequence[str]) -> None:
        """Show the names of the base models that are being prepared."""
        self._beside(f"preparing {', '.join(map(escape, models))}")

    def planned(self, trials: Sequence[Trial]) -> None:
        """Add the sweep's bar, which counts optimiser steps of all trials."""
        self._steps = {trial.number: 0 for trial in trials}
        if trials:
            self._sweep = self._bars.add_task("sweep", total=sum(trial.steps for trial in trials), detail="")
            self._advance()

    def _advance(self) -> None:
        if self._sweep is not None:
            detail = f"{len(self._ended)}/{len(self._steps)} trials done"
            self._bars.update(self._sweep, completed=sum(self._steps.values()), detail=detail)

    def started(self, trial: Trial) -> None:
        """Add a bar for a trial, if there is room."""
        self._beside(None)
        if trial.number not in self._tasks and len(self._tasks) < MOST_BARS:
            self._tasks[trial.number] = self._bars.add_task(_title(trial), total=trial.steps, detail="waiting")

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        """Update a trial's bar."""
        if trial.number not in self._tasks:  # a trial that has not taken a step yet gives up its bar
            waiting = next((number for number in self._tasks if not self._steps.get(number)), None)
            if len(self._tasks) >= MOST_BARS and waiting is not None:
                self._bars.remove_task(self._tasks.pop(waiting))
        self.started(trial)  # a job that an earlier run submitted was not started by this one
        detail = f"{snapshot.step}/{trial.steps} epoch {snapshot.epoch} mean loss {numbers.loss(snapshot.mean_loss)}"
        if trial.number in self._tasks:
            self._bars.update(self._tasks[trial.number], completed=snapshot.step, detail=detail)
        self._steps[trial.number] = snapshot.step
        self._advance()

    def evaluating(self, subject: str) -> None:
        """Show what is being evaluated."""
        self._beside(f"evaluating {subject}")

    def finished(self, trial: Trial, result: TrialResult) -> None:
        """Replace a trial's bar by a line with its outcome."""
        self._beside(None)
        task = self._tasks.pop(trial.number, None)
        if task is not None:
            self._bars.remove_task(task)
        self._ended.add(trial.number)
        self._steps[trial.number] = trial.steps  # the remaining steps of a trial that failed will not be taken
        self._advance()
        self._console.print(f"{_title(trial)}: {_outcome(trial, result)}")

    def note(self, text: str) -> None:
        """Print something that needs attention."""
        self._console.print(f"[yellow]note:[/] {escape(text)}")


class NotebookProgress(BarProgress):
    """The bars of `BarProgress` in the output of a notebook's cell, redrawn in place.

    rich's own notebook display needs ipywidgets; without them it warns and shows nothing.

    Args:
        show: replaces the cell's output with a text.
        clock: returns seconds, to measure the time between two updates.
    """

    def __init__(self, show: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = io.StringIO()  # permanent lines: finished trials and notes
        super().__init__(Console(file=self._lines, width=NOTEBOOK_WIDTH, color_system=None, force_jupyter=False))
        self._show = show
        self._clock = clock
        self._drawn_at = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._show(self._lines.getvalue())

    def _beside(self, text: str | None) -> None:
        super()._beside(text)
        self._draw()

    def _advance(self) -> None:
        super()._advance()
        self._draw()

    def _draw(self) -> None:
        now = self._clock()
        if now - self._drawn_at >= NOTEBOOK_INTERVAL_S:
            self._drawn_at = now
            drawn = io.StringIO()
            console = Console(file=drawn, width=NOTEBOOK_WIDTH, color_system=None, force_jupyter=False)
            console.print(self._bars.get_renderable())
            self._show(self._lines.getvalue() + drawn.getvalue())


def automatic() -> AbstractContextManager[Progress]:
    """Return bars for a terminal or a notebook; if output goes elsewhere, a progress display that shows nothing."""
    console = Console(stderr=True)
    if not console.is_jupyter:
        return BarProgress(console) if console.is_terminal else nullcontext(Progress())

    from IPython.display import display

    def content(text: str) -> dict[str, str]:
        return {"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"}

    place = display(content(""), raw=True, display_id=True)
    return NotebookProgress(lambda text: place.update(content(text), raw=True))
