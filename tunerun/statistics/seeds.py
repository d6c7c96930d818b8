"""Variance between seeds: how much of a difference between points is due to the training seed.

A test over rows alone is about the models that were trained. If seeds move a score by 4 points, such a test of the
settings errs in up to 37 % of cases at 300 rows; so a claim about settings needs at least two seeds and this test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np

from tunerun.statistics.flips import Array

_DUST = 9
"""Decimals to which sums are rounded before they are compared."""


@dataclass(frozen=True)
class SeedVariance:
    """The variance between seeds, pooled over all points.

    Attributes:
        of_means: variance of the seeds' mean scores, averaged over points; it includes sampling noise of the rows.
        of_seeds: the part of `of_means` that is due to seeds alone, 0 or more.
        freedom: degrees of freedom: the number of seeds beyond each point's first.
    """

    of_means: float
    of_seeds: float
    freedom: int


@dataclass(frozen=True)
class SettingsTest:
    """The result of a t test of a difference between settings.

    Attributes:
        statistic: the difference in standard errors.
        error: standard error of the difference; 0 if nothing varies.
        freedom: Satterthwaite's degrees of freedom.
        p: two-sided p value, not corrected; use `pairs.holm` for several tests.
    """

    statistic: float
    error: float
    freedom: float
    p: float

    def reach(self, alpha: float, comparisons: int = 1) -> float:
        """Return half the width of a simultaneous 1 - alpha interval for several comparisons (Bonferroni)."""
        from scipy.stats import t as student

        return self.error * float(student.isf(alpha / (2 * comparisons), self.freedom)) if self.error else 0.0


def pooled(points: Sequence[Array]) -> SeedVariance:
    """Pool the variance between seeds; a point with one seed adds nothing.

    Args:
        points: the scores of each point, [seeds, rows]; all on the same rows, at least two rows.

    Raises:
        ValueError: no point has two seeds.
    """
    tables = [table for table in points if len(table) > 1]
    weights = [len(table) - 1 for table in tables]
    if not tables:
        raise ValueError("no point has two seeds")
    of_means = float(np.average([table.mean(axis=1).var(ddof=1) for table in tables], weights=weights))
    residual = float(np.average([_residual_variance(table) for table in tables], weights=weights))
    # Pooled over all points: in simulated worlds with each point's own variance the level was up to 8.5 %, not 5.2 %.
    return SeedVariance(of_means, max(of_means - residual / tables[0].shape[1], 0.0), sum(weights))


def _residual_variance(table: Array) -> float:
    seeds, rows = table.shape
    rest = table - table.mean(axis=0, keepdims=True) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((rest**2).sum() / ((rows - 1) * (seeds - 1)))


def two_way(differences: Array, variance: SeedVariance, seeds: Sequence[int]) -> SettingsTest:
    """Test a difference between settings, with the variance of rows and of seeds.

    In simulated worlds with a standard deviation of 0 to 0.04 between seeds, its error rate is 1.8 to 5.4 %.

    Args:
        differences: [rows], each the difference of a row's mean scores over seeds.
        variance: between seeds, from `pooled`.
        seeds: number of seeds of each side that is tuned; an untuned baseline is omitted.
    """
    # Imported here: SciPy costs half a second that a plan should not pay.
    from scipy.stats import t as student

    mean, rows = float(differences.mean()), len(differences)
    total, freedom = _total_variance(float(differences.var(ddof=1)) / rows, rows, variance, sum(1 / n for n in seeds))
    if total == 0:
        return SettingsTest(0.0 if mean == 0 else inf if mean > 0 else -inf, 0.0, inf, 1.0 if mean == 0 else 0.0)
    statistic = mean / sqrt(total)
    return SettingsTest(statistic, sqrt(total), float(freedom), float(2 * student.sf(abs(statistic), freedom)))


def _total_variance(of_rows: Any, rows: int, variance: SeedVariance, sides: Any) -> tuple[Any, Any]:
    """Variance of a mean difference and Satterthwaite's degrees of freedom, for numbers or for arrays of them."""
    # `of_seeds` is estimated from `of_means`, so its sampling error is that of `of_means`, which includes rows' noise.
    total = of_rows + sides * variance.of_seeds
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.square(total) / (
            np.square(of_rows) / (rows - 1) + np.square(sides * variance.of_means) / variance.freedom
        )
    return total, freedom


def tied_settings_p(scores: Array, variance: SeedVariance, seeds: Sequence[int]) -> list[float]:
    """Return for each point the p value of "its settings are as good as the best"; those above alpha are the tied set.

    The procedure is that of `tied_set.tied_set_p`, which is about trained models: test the most extreme of the
    remaining pairs, remove its worse point, repeat. Here a pair is tested by `two_way`, with a Bonferroni correction
    for all remaining pairs, because flipping rows cannot simulate other seeds.

    Args:
        scores: [rows, points], means over seeds; higher is better.
        variance: between seeds, from `pooled`.
        seeds: number of seeds of each point.
    """
    from scipy.stats import t as student

    rows, points = scores.shape
    centred = scores - scores.mean(axis=0)
    gram = centred.T @ centred
    squares = np.diag(gram)
    of_rows = np.maximum(squares[:, None] + squares - 2 * gram, 0.0).round(_DUST) / (rows - 1) / rows
    share = 1 / np.asarray(seeds, dtype=float)
    total, freedom = _total_variance(of_rows, rows, variance, share[:, None] + share)
    means = scores.mean(axis=0).round(_DUST)
    with np.errstate(invalid="ignore", divide="ignore"):
        # [worse, better]
        extremes = np.where(total > 0, (means[None, :] - means[:, None]) / np.sqrt(total), 0.0)
        certain = (total == 0) & (means[None, :] > means[:, None])
        p_values = np.where(certain, 0.0, 2 * student.sf(extremes, np.where(total > 0, freedom, np.inf)))
    p_values[means[None, :] <= means[:, None]] = 1.0
    left, result, running = list(range(points)), [1.0] * points, 0.0
    while len(left) > 1:
        smallest = p_values[np.ix_(left, left)].min(axis=1)
        least = float(smallest.min())
        candidates = [left[index] for index in np.flatnonzero(smallest <= least)]
        worst = min(candidates, key=lambda point: (float(means[point]), -point))
        running = max(running, min(1.0, least * len(left) * (len(left) - 1) / 2))
        result[worst] = running
        left.remove(worst)
    return result


def consistency(answers: Sequence[Sequence[str]]) -> float:
    """Return the share of rows to which all seeds of a point give the same answer (arXiv 2503.07329).

    Args:
        answers: the answers of each seed, all in the same order of rows.
    """
    rows = list(zip(*answers, strict=True))
    return sum(len(set(row)) == 1 for row in rows) / len(rows)
