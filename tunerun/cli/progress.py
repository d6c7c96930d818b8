"""Live progress of a run on stderr: a bar for each running trial, or plain lines where stderr is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from tunerun.cli.tables import err, number, overrides_text, plain, share
from tunerun.evaluation.verdict import LOSS, TrialResult
from tunerun.job import Snapshot
from tunerun.planning import Trial
from tunerun.runner.progress import Progress

LINE_INTERVAL_S = 30.0
"""Seconds between two plain lines of one trial inside an epoch, at least: 120 lines an hour are still read."""

SPEED_PERIOD_S = 3600.0
"""Seconds of steps from which a bar's time left is estimated; rich's own 30 hold no step of a slow job."""


def _title(trial: Trial) -> str:
    return f"trial {trial.number} {overrides_text(trial.overrides)}".rstrip()


def _ends_epoch(trial: Trial, step: int) -> bool:
    return step * trial.config.hyperparameters.epoch_count % trial.steps == 0


def _outcome(result: TrialResult) -> str:
    parts = [str(result.state)]
    if LOSS in result.metrics:
        parts.append(f"validation loss {number(result.metrics[LOSS])}")
    parts.extend(
        f"{name.removeprefix('eval/').replace('_', ' ')} {share(value)}"
        for name, value in result.metrics.items()
        if name.startswith("eval/")
    )
    if result.failure is not None:
        parts.append(f"{result.failure.kind}: {result.failure.message}")
    return plain(", ".join(parts))


class LineProgress(Progress):
    """Plain lines, for logs and pipes.

    Args:
        clock: seconds, for the time between two lines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_line: dict[int, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def preparing(self, models: Sequence[str]) -> None:
        """Name the base models that are looked for."""
        err.print(f"preparing {', '.join(map(plain, models))}")

    def started(self, trial: Trial) -> None:
        """Say that a trial is on its way."""
        self._last_line[trial.number] = self._clock()
        err.print(f"{_title(trial)}: started, {trial.steps} steps")

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        """Say how far a trial is: after every epoch, and now and then inside a long one."""
        now = self._clock()
        if now - self._last_line.get(trial.number, now) >= LINE_INTERVAL_S or _ends_epoch(trial, snapshot.step):
            self._last_line[trial.number] = now
            err.print(
                f"{_title(trial)}: step {snapshot.step}/{trial.steps}, epoch {snapshot.epoch}, "
                f"mean loss {number(snapshot.mean_loss)}"
            )

    def evaluating(self, subject: str) -> None:
        """Say what is measured."""
        err.print(f"evaluating {subject}")

    def finished(self, trial: Trial, result: TrialResult) -> None:
        """Say what became of a trial."""
        err.print(f"{_title(trial)}: {_outcome(result)}")

    def note(self, text: str) -> None:
        """Say something that needs attention."""
        err.print(f"[yellow]note:[/] {plain(text)}")


class BarProgress(Progress):
    """A bar for the whole sweep, one for each running trial below it, and a line for each that has ended.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console = err) -> None:
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
        self._steps: dict[int, int] = {}  # taken by each trial of this run
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
        """Show what goes on beside the trials, or nothing."""
        if self._aside is not None:
            self._bars.remove_task(self._aside)
        self._aside = None if text is None else self._bars.add_task(text, total=None, detail="")

    def preparing(self, models: Sequence[str]) -> None:
        """Name the base models that are looked for."""
        self._beside(f"preparing {', '.join(map(plain, models))}")

    def planned(self, trials: Sequence[Trial]) -> None:
        """Open the sweep's bar, which counts steps."""
        self._steps = {trial.number: 0 for trial in trials}
        if trials:
            self._sweep = self._bars.add_task("sweep", total=sum(trial.steps for trial in trials), detail="")
            self._advance()

    def _advance(self) -> None:
        if self._sweep is not None:
            detail = f"{len(self._ended)}/{len(self._steps)} trials done"
            self._bars.update(self._sweep, completed=sum(self._steps.values()), detail=detail)

    def started(self, trial: Trial) -> None:
        """Open a bar."""
        self._beside(None)
        if trial.number not in self._tasks:
            self._tasks[trial.number] = self._bars.add_task(_title(trial), total=trial.steps, detail="waiting")

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        """Move a bar."""
        self.started(trial)  # a job that was looked for and found was not started here
        detail = f"{snapshot.step}/{trial.steps} epoch {snapshot.epoch} mean loss {number(snapshot.mean_loss)}"
        self._bars.update(self._tasks[trial.number], completed=snapshot.step, detail=detail)
        self._steps[trial.number] = snapshot.step
        self._advance()

    def evaluating(self, subject: str) -> None:
        """Say what is measured."""
        self._beside(f"evaluating {subject}")

    def finished(self, trial: Trial, result: TrialResult) -> None:
        """Close a bar, and leave a line."""
        self._beside(None)
        task = self._tasks.pop(trial.number, None)
        if task is not None:
            self._bars.remove_task(task)
        self._ended.add(trial.number)
        self._steps[trial.number] = trial.steps  # one that failed early leaves no steps to wait for
        self._advance()
        self._console.print(f"{_title(trial)}: {_outcome(result)}")

    def note(self, text: str) -> None:
        """Say something that needs attention."""
        self._console.print(f"[yellow]note:[/] {plain(text)}")


def progress_on_stderr() -> LineProgress | BarProgress:
    """Bars on a terminal, lines elsewhere."""
    return BarProgress() if err.is_terminal else LineProgress()
