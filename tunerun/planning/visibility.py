"""The differences that held-out examples can show, estimated before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.examples import ExampleSet
from tunerun.planning.trial import Trial
from tunerun.schema import Evaluation
from tunerun.statistics.power import rows_for_equality, rows_needed, share_lost, smallest_visible

SMALL_DIFFERENCE = 0.05
"""The difference in the share of right answers that is assumed to matter if `evaluation.worth` is 0: five points."""

_ACCURACY = 0.5
"""Assumed share of right answers of the model to beat: nothing is known yet, and the variance is largest here."""

_RELATED = 0.5
"""Factor on the share of rows that a better model loses, if the two models' errors are correlated half way."""


@dataclass(frozen=True)
class Visibility:
    """The differences in the share of right answers that held-out examples show with a power of 80 %.

    The verdict reports the same figure for the baseline's measured value. Before anything runs, half of the rows are
    assumed to be right, where the variance of a score is largest. Unrelated errors are the worst plausible case: models
    tuned from one base model err on the same rows more often than that.

    Attributes:
        rows: number of held-out examples.
        clusters: number of independent units among them; fewer than the rows if some belong together.
        points: number of points compared; trials that differ only in their seed are one.
        baselines: number of baselines that each point is compared with.
        alpha: family-wise error rate of the comparison.
        worth: the difference for `rows_for_worth`: `evaluation.worth`, or `SMALL_DIFFERENCE` if that is 0.
        may_be_equal: whether the comparison can call models equal, which needs `evaluation.worth` above 0.
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
        """The size of the verdict's family of tests: every point with every baseline."""
        return self.points * max(1, self.baselines)

    @property
    def smallest(self) -> float | None:
        """The smallest visible difference if errors are unrelated; None: even perfect answers would not show one."""
        return self._smallest(1.0)

    @property
    def smallest_related(self) -> float | None:
        """The smallest visible difference if errors are half related; None as in `smallest`."""
        return self._smallest(_RELATED)

    def _smallest(self, related: float) -> float | None:
        return smallest_visible(
            self.clusters, _ACCURACY, related=related, comparisons=self.comparisons, alpha=self.alpha
        )

    @property
    def rows_for_worth(self) -> int:
        """The number of rows that show a difference of `worth` if errors are unrelated."""
        return self._rows_for_worth(1.0)

    def _rows_for_worth(self, related: float) -> int:
        lost = related * share_lost(_ACCURACY, self.worth)
        return rows_needed(self.worth, lost, comparisons=self.comparisons, alpha=self.alpha)

    @property
    def rows_for_equality(self) -> int | None:
        """The number of rows below which two models cannot be called equal; None: models are never called equal."""
        return rows_for_equality(self.worth, self.alpha) if self.may_be_equal else None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as `plan --json` prints them."""
        return {"smallest_visible": self.smallest, "rows_for_worth": self.rows_for_worth}

    def __str__(self) -> str:
        """The sentences of the printed plan."""
        rows = f"{self.rows:,} held-out examples"
        if self.clusters < self.rows:
            rows += f" ({self.clusters:,} clusters of examples that belong together)"
        compared = "of a point to a baseline"
        if self.comparisons > 1:
            compared = f"in the {self.comparisons:,} comparisons of points with baselines"
        worth = f"{100 * self.worth:g} percentage point{'' if self.worth == 0.01 else 's'}"
        few, many = self._rows_for_worth(_RELATED), self.rows_for_worth
        visible = "show no difference"
        if self.smallest_related is not None:
            related = f"{100 * self.smallest_related:.0f} percentage points or more"
            related += " if the models err on related examples"
            visible = f"show differences of about {related}, and none if they do not,"
            if self.smallest is not None:
                points = f"{100 * self.smallest:.0f} percentage points or more"
                visible = f"show differences of about {points}, or {related},"
        sentences = [
            f"{rows} {visible} {compared} (power 80 %).",
            f"To show {worth}, hold out about {few:,} to {many:,}." if many > self.clusters else "",
        ]
        if self.rows_for_equality is not None and self.clusters < self.rows_for_equality:
            sentences.append(
                f"They can call nothing equal within {worth}: that takes {self.rows_for_equality:,} at least."
            )
        return " ".join(sentence for sentence in sentences if sentence)


def visibility(trials: Sequence[Trial], baselines: int) -> Visibility | None:
    """Return the differences that trials' held-out examples can show; None: nothing is held out, or no metrics.

    Args:
        trials: of a plan.
        baselines: number of baselines that are measured.
    """
    sets = [trial.validation for trial in trials if trial.validation is not None]
    if not sets:
        return None
    return visibility_of(sets, len({trial.point for trial in trials}), baselines, trials[0].config.evaluation)


def visibility_of(sets: Sequence[ExampleSet], points: int, baselines: int, evaluation: Evaluation) -> Visibility | None:
    """Return the differences that a sweep's held-out sets can show; None: there are no metrics.

    Args:
        sets: not empty; the smallest one is used.
        points: number of points compared, each with all baselines.
        baselines: number of baselines.
        evaluation: the config section.
    """
    if not evaluation.metrics:
        return None
    # Without recorded clusters each row is one of its own.
    rows, clusters = min((len(s.examples), len(set(s.clusters)) or len(s.examples)) for s in sets)
    return Visibility(
        rows=rows,
        clusters=clusters,
        points=points,
        baselines=baselines,
        alpha=evaluation.alpha,
        worth=evaluation.worth or SMALL_DIFFERENCE,
        may_be_equal=evaluation.worth > 0,
    )
