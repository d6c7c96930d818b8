"""The tables that are compared: scores of points and baselines on rows, or on clusters of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from tunerun.comparison.results import Estimate
from tunerun.metrics import Metric, Unit
from tunerun.metrics.base import RANGES, FloatArray
from tunerun.statistics import (
    SeedVariance,
    cluster_sums,
    critical_value,
    pooled,
    pseudo_values,
    score_interval,
    wilson,
)
from tunerun.statistics.intervals import Interval

# Without rounding, ties between points were broken by rounding errors in 11 of 150 simulated sweeps (2026-11-25).
DUST = 9
"""Decimals to which values are rounded before they are compared: sums that cancel leave about 1e-16 instead of 0."""


@dataclass(frozen=True)
class PointScores:
    """A point that is compared.

    Attributes:
        number: of the point.
        scores: [seeds, rows, m], for each of its trials what `Metric.rows` returns.
        tokens, rank, answer_length: its price, compared in this order; see `costs.Priced`.
    """

    number: int
    scores: FloatArray
    tokens: int = 0
    rank: int = 0
    answer_length: float | None = None


@dataclass(frozen=True)
class BaselineScores:
    """A baseline that is compared; its scores are [rows, m]."""

    # Nothing of a baseline is trained, so it has no seeds.
    name: str
    scores: FloatArray


def estimate(
    metric: Metric, scores: FloatArray, clusters: Sequence[int] | None = None, alpha: float = 0.05
) -> Estimate:
    """Return a measure of one point or baseline with an interval for it alone.

    Args:
        scores: [seeds, rows, m].
        clusters: the cluster of each row; None: every row is its own.
        alpha: 1 - alpha is the confidence level.

    Returns:
        The mean over seeds with their spread; the interval is Wilson's where rows of one seed are right or wrong, else
        the score form, clipped to the metric's range.
    """
    units = Units.of(scores.shape[1], clusters)
    sums = units.sums(scores)
    values = metric.value(scores.mean(axis=1))
    value, seeds = float(values.mean()), len(values)
    rows = units.scores(metric, sums).mean(axis=0)
    # Wilson's interval is for counts of right rows; a mean over seeds of right and wrong is not one.
    has_shares = not metric.is_corpus and units.clusters is None and is_binary(scores) and seeds == 1
    deviation = float(rows.std())
    # A share whose rows are all alike has no spread to make an interval of: Wilson's still says how few rows there are.
    if has_shares or (deviation < 10**-DUST and metric.unit is Unit.SHARE):
        low, high = wilson(min(1.0, max(0.0, value)), len(rows), alpha)
    else:
        low, high = score_interval(value, deviation, len(rows), critical_value(alpha))
    low, high = within(metric, low, high)
    spread = float(values.std(ddof=1)) if seeds > 1 else None
    return Estimate(value, low if low > -inf else None, high if high < inf else None, spread, seeds)


def within(metric: Metric, low: float, high: float) -> Interval:
    """Clip an interval to the range of a metric.

    Args:
        low, high: the ends; a metric without a range keeps them.
    """
    # A score interval does not know that a share ends at 1: near an end of the range it reaches beyond.
    top = RANGES.get(metric.unit, inf)
    return (max(low, 0.0), min(high, top)) if top < inf else (low, high)


def is_binary(values: FloatArray) -> bool:
    """Whether scores are those of right and wrong rows."""
    return values.shape[-1] == 1 and bool(np.all((values == 0) | (values == 1)))


@dataclass(frozen=True)
class Units:
    """What is flipped and resampled: rows, or clusters of them."""

    rows: int
    clusters: list[int] | None
    sizes: FloatArray

    @classmethod
    def of(cls, rows: int, clusters: Sequence[int] | None) -> Units:
        """Make units of rows.

        Args:
            clusters: the cluster of each row, by any numbers; None, or as many clusters as rows: the rows themselves.
        """
        if clusters is None or len(set(clusters)) == rows:
            return cls(rows, None, np.ones(rows))
        _, numbers, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
        return cls(rows, [int(number) for number in numbers], sizes.astype(float))

    @property
    def count(self) -> int:
        """The number of rows or clusters."""
        return len(self.sizes)

    def sums(self, scores: FloatArray) -> FloatArray:
        """Sum rows within each unit: [seeds, rows, m] to [seeds, units, m]."""
        if self.clusters is None:
            return scores
        return np.stack([cluster_sums(table, self.clusters) for table in scores])

    def scores(self, metric: Metric, sums: FloatArray) -> FloatArray:
        """Return one score for each unit, [seeds, units], whose mean is the measure; higher is better.

        Args:
            sums: from `sums`, [seeds, units, m].
        """
        sign = 1.0 if metric.higher_is_better else -1.0
        if metric.is_corpus:
            # A corpus metric has no score of a row: the jackknife's pseudo-values take its place (Tukey 1958).
            return sign * np.stack([pseudo_values(table, self.sizes, metric.value) for table in sums])
        # Scaled, because the mean over clusters of different sizes is not the mean over rows.
        return sign * sums[:, :, 0] * (self.count / self.rows)


@dataclass(frozen=True)
class ScoreTable:
    """The scores that every test reads, on units: rows, or clusters of rows.

    Attributes:
        point_sums: of each point, what its rows contribute, [seeds, units, m].
        baseline_sums: of each baseline, likewise, with one seed.
        means: scores averaged over seeds, [units, points]; higher is better.
        differences: point minus baseline, [units, pairs]: all baselines of the first point, then of the second.
        is_binary: whether every difference is one of right and wrong rows of one seed.
        seed_variance: None: no point has two seeds, so claims are about the trained models, not their settings.
    """

    metric: Metric
    points: Sequence[PointScores]
    baselines: Sequence[BaselineScores]
    units: Units
    point_sums: list[FloatArray]
    baseline_sums: list[FloatArray]
    means: FloatArray
    differences: FloatArray
    is_binary: bool
    seed_variance: SeedVariance | None

    @classmethod
    def of(
        cls, metric: Metric, points: Sequence[PointScores], baselines: Sequence[BaselineScores], units: Units
    ) -> ScoreTable:
        """Sum scores over units, average them over seeds, and take differences to every baseline.

        Args:
            points, baselines: with the same rows; no baselines: there are no differences.
            units: what is flipped.
        """
        point_sums = [units.sums(point.scores) for point in points]
        baseline_sums = [units.sums(baseline.scores[None]) for baseline in baselines]
        scores = [units.scores(metric, sums) for sums in point_sums]
        means = np.stack([each.mean(axis=0) for each in scores], axis=1)
        differences = np.zeros((units.count, 0))
        if baselines:
            beside = np.stack([units.scores(metric, sums)[0] for sums in baseline_sums], axis=1)
            apart = means[:, :, None] - beside[:, None, :]
            # Means over seeds leave about 1e-17 where nothing differs, and such a row must not be flipped.
            differences = np.asarray(apart.reshape(units.count, -1).round(DUST + 3))
        tables = [*(each.scores for each in points), *(each.scores for each in baselines)]
        has_one_seed = all(len(point.scores) == 1 for point in points)
        # Only a row of one seed is right or wrong; a sum over a cluster or a mean over seeds is neither. One unit has
        # no variance between units, which a test of settings needs.
        return cls(
            metric=metric,
            points=points,
            baselines=baselines,
            units=units,
            point_sums=point_sums,
            baseline_sums=baseline_sums,
            means=means,
            differences=differences,
            is_binary=not metric.is_corpus and units.clusters is None and has_one_seed and all(map(is_binary, tables)),
            seed_variance=pooled(scores) if not has_one_seed and units.count > 1 else None,
        )

    @property
    def seed_counts(self) -> list[int]:
        """The number of seeds of each point."""
        return [len(point.scores) for point in self.points]
