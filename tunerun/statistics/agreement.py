"""Agreement of two raters of the same items, such as a judge and a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
"""Bootstrap samples: at 50 pairs the ends of a 95 % interval vary by 0.014 over 20 seeds (measured 2026-11-26)."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of two raters' whole-number ratings.

    Attributes:
        pairs: number of items that both rated.
        exact: share of items with equal ratings.
        within_one: share of items whose ratings differ by at most one.
        kappa: Cohen's kappa with quadratic weights (Cohen 1968); None: one rater gave every item the same rating, so
            that chance explains all agreement.
        low, high: percentile-bootstrap interval of kappa; None where kappa is None.
    """

    pairs: int
    exact: float
    within_one: float
    kappa: float | None
    low: float | None
    high: float | None


def agreement(first: Sequence[float], second: Sequence[float], *, alpha: float = 0.05, seed: int = 0) -> Agreement:
    """Measure the agreement of two raters by Cohen's weighted kappa (Cohen 1968, Psychological Bulletin 70:213).

    Args:
        first, second: the raters' ratings of the same items, in the same order; not empty.
        alpha: 1 - alpha is the confidence level of the interval.
        seed: of the bootstrap.

    Returns:
        Shares of equal and near ratings, and kappa with its interval.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    kappa = float(_kappa(a[None, :], b[None, :])[0])
    apart = np.abs(a - b)
    low = high = None
    if np.isfinite(kappa) and len(a) > 1:
        drawn = np.random.default_rng(seed).integers(len(a), size=(RESAMPLES, len(a)))
        resampled = _kappa(a[drawn], b[drawn])
        resampled = resampled[np.isfinite(resampled)]  # a resample in which one rater is constant has no kappa
        if len(resampled):
            low, high = (float(each) for each in np.quantile(resampled, [alpha / 2, 1 - alpha / 2]))
    return Agreement(
        len(a), float((apart == 0).mean()), float((apart <= 1).mean()), kappa if np.isfinite(kappa) else None, low, high
    )


def _kappa(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kappa of each row of two tables [samples, pairs]; NaN where chance explains everything.

    With quadratic weights, the disagreement expected by chance is the mean of (a - b)² over all combinations of a
    rating of one rater and a rating of the other: the sum of both variances and the squared difference of the means.
    """
    observed = ((a - b) ** 2).mean(axis=1)
    by_chance = a.var(axis=1) + b.var(axis=1) + (a.mean(axis=1) - b.mean(axis=1)) ** 2
    either_is_constant = (a.var(axis=1) == 0) | (b.var(axis=1) == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(either_is_constant, np.nan, 1 - observed / by_chance)
