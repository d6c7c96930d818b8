"""Hooks by which a runner reports its progress."""

from __future__ import annotations

from collections.abc import Sequence

from tunerun.comparison.results import TrialResult
from tunerun.job import Snapshot
from tunerun.planning import Trial


class Progress:
    """What the runner tells while it works; this one says nothing, others override what they want to show.

    Every method returns at once and never fails. The runner calls it from one thread.
    """

    def preparing(self, models: Sequence[str]) -> None:
        """The base models are looked for, and fetched or converted where that is needed."""

    def planned(self, trials: Sequence[Trial]) -> None:
        """These trials are not finished; the run begins with them."""

    def started(self, trial: Trial) -> None:
        """A trial is about to be submitted, or was found running."""

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        """A trial took a step; its last one is `trial.steps`."""

    def evaluating(self, subject: str) -> None:
        """Held-out examples are being answered by a trial's model or the base model."""

    def finished(self, trial: Trial, result: TrialResult) -> None:
        """A trial has ended, well or not."""

    def note(self, text: str) -> None:
        """Something needs attention, but does not stop the run."""
