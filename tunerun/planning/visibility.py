"""What the held-out examples of a plan can show, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunerun.planning.trial import Trial
from tunerun.statistics.power import rows_needed, share_lost, smallest_visible

SMALL_DIFFERENCE = 0.05
"""A difference in the share of right answers that many sweeps are about: five percentage points."""

_ACCURACY = 0.5
"""Of the model to beat, before anything is known of it: the share at which chance moves a score most."""


@dataclass(frozen=True)
class Visibility:
    """The differences in the share of right answers that held-out examples show with a power of 80 %.

    Attributes:
        rows: held-out examples.
        settings: what is compared; trials that differ in their seed alone are one.
        smallest: the smallest difference, where the models' errors are unrelated and the one to beat has half of the
            rows right; None: not even a model that is always right could be told from it.
        rows_for_small: rows that show a difference of `SMALL_DIFFERENCE`.
    """

    rows: int
    settings: int
    smallest: float | None
    rows_for_small: int

    def __str__(self) -> str:
        among = "of one setting to the base model" if self.settings == 1 else f"among {self.settings:,} settings"
        shown = (
            f"show no difference {among}"
            if self.smallest is None
            else f"show differences of about {100 * self.smallest:.0f} percentage points or more {among}"
        )
        return (
            f"{self.rows:,} held-out examples {shown} (power 80 %, unrelated errors); for "
            f"{100 * SMALL_DIFFERENCE:.0f} points hold out about {self.rows_for_small:,}."
        )


def visibility(trials: Sequence[Trial]) -> Visibility | None:
    """What the trials' held-out examples can show; None: nothing is held out, or no answers are measured."""
    sets = [trial.validation for trial in trials if trial.config.evaluation.metrics and trial.validation is not None]
    if not sets:
        return None
    rows = min(len(each.examples) for each in sets)
    settings = len({repr([item for item in trial.overrides.items() if item[0] != "seed"]) for trial in trials})
    lost = share_lost(_ACCURACY, SMALL_DIFFERENCE)
    return Visibility(
        rows=rows,
        settings=settings,
        smallest=smallest_visible(rows, _ACCURACY, comparisons=settings),
        rows_for_small=rows_needed(SMALL_DIFFERENCE, lost, comparisons=settings),
    )
