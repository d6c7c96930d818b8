"""The tables that are compared: scores of points and baselines on rows, or on clusters of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from tunerun.comparison.results import Estimate
from tunerun.metrics import Metric, Unit
from tunerun.metrics.base import RANGES, FloatArray
from tunerun.statistics import cluster_sums, critical_value, pseudo_values, score_interval, wilson
from tunerun.statistics.intervals import Interval

DUST = 9
"""Decimals to which values are rounded before they are compared."""


@dataclass(frozen=True)
class PointScores:
    """A point that is compared.

    Attributes:
        number: of the point.
        scores: [seeds, rows, m], of each of its trials what `Metric.rows` gives.
        tokens, rank, answer_length: what makes it cheap, in this order.
    """

    number: int
    scores: FloatArray
    tokens: int = 0
    rank: int = 0
    answer_length: float | None = None


@dataclass(frozen=True)
class BaselineScores:
    """A baseline that is compared; its scores are [rows, m]."""

    name: str
    scores: FloatArray


def estimate(
    metric: Metric, scores: FloatArray, clusters: Sequence[int] | None = None, alpha: float = 0.05
) -> Estimate:
    """Return a measure of one arm with its own interval.

    Wilson's for rows that are right or wrong, else the score form.

    Args:
        scores: [seeds, rows, m].
    """
    units = Units.of(scores.shape[1], clusters)
    sums = units.sums(scores)
    values = metric.value(scores.mean(axis=1))
    value, seeds = float(values.mean()), len(values)
    rows = units.scores(metric, sums).mean(axis=0)
    has_shares = not metric.is_corpus and units.clusters is None and is_binary(scores) and seeds == 1
    deviation = float(rows.std())
    if has_shares or (deviation < 10**-DUST and metric.unit is Unit.SHARE):
        low, high = wilson(min(1.0, max(0.0, value)), len(rows), alpha)
    else:
        low, high = score_interval(value, deviation, len(rows), critical_value(alpha))
    low, high = within(metric, low, high)
    spread = float(values.std(ddof=1)) if seeds > 1 else None
    return Estimate(value, low if low > -inf else None, high if high < inf else None, spread, seeds)


def within(metric: Metric, low: float, high: float) -> Interval:
    """Clip an interval to the range of the measure."""
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
        """Clusters of each row, by any numbers; None, or as many as rows: the rows themselves."""
        if clusters is None or len(set(clusters)) == rows:
            return cls(rows, None, np.ones(rows))
        _, numbers, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
        return cls(rows, [int(number) for number in numbers], sizes.astype(float))

    @property
    def count(self) -> int:
        """The number of rows or clusters."""
        return len(self.sizes)

    def sums(self, scores: FloatArray) -> FloatArray:
        """[seeds, rows, m] to [seeds, units, m]."""
        if self.clusters is None:
            return scores
        return np.stack([cluster_sums(table, self.clusters) for table in scores])

    def scores(self, metric: Metric, sums: FloatArray) -> FloatArray:
        """One score of each unit, [seeds, units], whose mean is the measure; higher is better."""
        sign = 1.0 if metric.higher_is_better else -1.0
        if metric.is_corpus:
            return sign * np.stack([pseudo_values(table, self.sizes, metric.value) for table in sums])
        return sign * sums[:, :, 0] * (self.count / self.rows)
