"""Hooks by which a runner reports its progress."""

from __future__ import annotations

from collections.abc import Sequence

from tunerun.comparison.results import TrialResult
from tunerun.job import Snapshot
from tunerun.planning import Trial


class Progress:
    """Hooks that the runner calls. This class shows nothing; subclasses override what they display.

    Contract for subclasses: every method returns at once and never raises. The runner calls them from one thread.
    """

    def preparing(self, models: Sequence[str]) -> None:
        """Called before base models are located, and fetched or converted if needed; `models` are their names."""

    def planned(self, trials: Sequence[Trial]) -> None:
        """Called once with the unfinished trials, before the run starts."""

    def started(self, trial: Trial) -> None:
        """Called when a trial is about to be submitted, or was found running."""

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        """Called for each new step of a trial; its last step is `trial.steps`."""

    def evaluating(self, subject: str) -> None:
        """Called when a model starts to answer held-out examples; `subject` names the model."""

    def finished(self, trial: Trial, result: TrialResult) -> None:
        """Called when a trial has ended, whether it succeeded or not."""

    def note(self, text: str) -> None:
        """Called when something needs attention but does not stop the run."""
