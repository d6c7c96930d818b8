"""What the held-out examples can show, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.job import ExampleSet
from tunerun.planning.trial import Trial
from tunerun.schema import Evaluation
from tunerun.statistics.power import rows_for_equality, rows_needed, share_lost, smallest_visible

SMALL_DIFFERENCE = 0.05
"""A difference in the share of right answers that many sweeps are about: five percentage points."""

_ACCURACY = 0.5
"""Of the model to beat, before anything is known of it: the share at which chance moves a score most."""

_RELATED = 0.5
"""Factor on the rows that a better model loses, where its errors are half related to those of the one to beat."""


@dataclass(frozen=True)
class Visibility:
    """The differences in the share of right answers that held-out examples show with a power of 80 %.

    The verdict has the same figure for the value that the baseline has then; before anything runs, half of the rows are
    taken to be right, where chance moves a score most. Unrelated errors are the worst plausible case; tuned
    models of one base model err on the same rows more often than that.

    Attributes:
        rows: held-out examples.
        clusters: how many facts of their own they are; less than the rows where some belong together.
        points: what is compared; trials that differ in their seed alone are one.
        baselines: what each of them has to beat.
        alpha: error rate of the whole comparison.
        worth: the difference that `rows_for_worth` is about: `evaluation.worth`, or `SMALL_DIFFERENCE` where that is 0.
        may_be_equal: whether the comparison can call models equal, for `evaluation.worth` is above 0.
    """

    rows: int
    clusters: int
    points: int
    baselines: int
    alpha: float
    worth: float
    may_be_equal: bool

    @property
    def comparisons(self) -> int:
        """The family of the verdict's tests: every point with every baseline."""
        return self.points * max(1, self.baselines)

    @property
    def smallest(self) -> float | None:
        """The smallest difference where errors are unrelated; None: not even a model that is always right is seen."""
        return self._smallest(1.0)

    @property
    def smallest_related(self) -> float | None:
        """The same where errors are half related."""
        return self._smallest(_RELATED)

    def _smallest(self, related: float) -> float | None:
        return smallest_visible(
            self.clusters, _ACCURACY, related=related, comparisons=self.comparisons, alpha=self.alpha
        )

    @property
    def rows_for_worth(self) -> int:
        """Rows that show a difference of `worth` where errors are unrelated."""
        return self._rows_for_worth(1.0)

    def _rows_for_worth(self, related: float) -> int:
        lost = related * share_lost(_ACCURACY, self.worth)
        return rows_needed(self.worth, lost, comparisons=self.comparisons, alpha=self.alpha)

    @property
    def rows_for_equality(self) -> int | None:
        """Rows below which no two models can be called equal; None: they never are."""
        return rows_for_equality(self.worth, self.alpha) if self.may_be_equal else None

    def to_json(self) -> dict[str, Any]:
        """As `plan --json` prints it."""
        return {"smallest_visible": self.smallest, "rows_for_worth": self.rows_for_worth}

    def __str__(self) -> str:
        return " ".join(self._sentences())

    def _sentences(self) -> list[str]:
        rows = f"{self.rows:,} held-out examples"
        if self.clusters < self.rows:
            rows += f" ({self.clusters:,} clusters of examples that belong together)"
        compared = "of a point to a baseline"
        if self.comparisons > 1:
            compared = f"in the {self.comparisons:,} comparisons of points with baselines"
        worth = f"{100 * self.worth:g} percentage point{'' if self.worth == 0.01 else 's'}"
        few, many = self._rows_for_worth(_RELATED), self.rows_for_worth
        said = [
            f"{rows} {self._shown()} {compared} (power 80 %).",
            f"To show {worth}, hold out about {few:,} to {many:,}." if many > self.clusters else "",
        ]
        if self.rows_for_equality is not None and self.clusters < self.rows_for_equality:
            said.append(f"They can call nothing equal within {worth}: that takes {self.rows_for_equality:,} at least.")
        return [sentence for sentence in said if sentence]

    def _shown(self) -> str:
        if self.smallest_related is None:
            return "show no difference"
        related = f"{100 * self.smallest_related:.0f} percentage points or more if the models err on related examples"
        if self.smallest is None:
            return f"show differences of about {related}, and none if they do not,"
        return f"show differences of about {100 * self.smallest:.0f} percentage points or more, or {related},"


def visibility(trials: Sequence[Trial], baselines: int) -> Visibility | None:
    """What the trials' held-out examples can show; None: nothing is held out, or no answers are measured.

    Args:
        baselines: that are measured.
    """
    sets = [trial.validation for trial in trials if trial.validation is not None]
    if not sets:
        return None
    return visibility_of(sets, len({trial.point for trial in trials}), baselines, trials[0].config.evaluation)


def visibility_of(sets: Sequence[ExampleSet], points: int, baselines: int, evaluation: Evaluation) -> Visibility | None:
    """The same of the held-out sets of a sweep; None: no answers are measured.

    Args:
        sets: not empty; the one with the fewest clusters decides.
        points: that are compared, each with all baselines.
    """
    if not evaluation.metrics:
        return None
    rows, clusters = min((len(s.examples), _clusters(s)) for s in sets)
    return Visibility(
        rows=rows,
        clusters=clusters,
        points=points,
        baselines=baselines,
        alpha=evaluation.alpha,
        worth=evaluation.worth or SMALL_DIFFERENCE,
        may_be_equal=evaluation.worth > 0,
    )


def _clusters(examples: ExampleSet) -> int:
    return len(set(examples.clusters)) or len(examples.examples)
