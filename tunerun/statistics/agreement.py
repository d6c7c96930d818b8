"""How far two raters of the same things agree: a judge and a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
"""Bootstrap samples: at 50 pairs the ends of a 95 % interval differ by 0.014 over 20 seeds (measured 2026-11-26)."""


@dataclass(frozen=True)
class Agreement:
    """What two raters' whole numbers have in common.

    Attributes:
        pairs: things that both rated.
        exact: share of equal ratings. within_one: share of those that are one apart at most.
        kappa: Cohen's kappa with quadratic weights (Cohen 1968); None: one of the raters has given one rating only to
            everything, so that chance explains all of it.
        low, high: its interval by the percentile bootstrap; None where kappa is.
    """

    pairs: int
    exact: float
    within_one: float
    kappa: float | None
    low: float | None
    high: float | None


def agreement(first: Sequence[float], second: Sequence[float], *, alpha: float = 0.05, seed: int = 0) -> Agreement:
    """Measure the agreement of two raters.

    Args:
        first, second: what each gave, in the same order; not empty.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    kappa = float(_kappa(a[None, :], b[None, :])[0])
    apart = np.abs(a - b)
    low = high = None
    if np.isfinite(kappa) and len(a) > 1:
        drawn = np.random.default_rng(seed).integers(len(a), size=(RESAMPLES, len(a)))
        found = _kappa(a[drawn], b[drawn])
        found = found[np.isfinite(found)]
        if len(found):
            low, high = (float(each) for each in np.quantile(found, [alpha / 2, 1 - alpha / 2]))
    return Agreement(
        len(a), float((apart == 0).mean()), float((apart <= 1).mean()), kappa if np.isfinite(kappa) else None, low, high
    )


def _kappa(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kappa of each row of two tables [samples, pairs]; NaN where chance explains everything.

    With quadratic weights the disagreement that chance explains is the mean of (a - b)² over all pairs of one's and
    the other's ratings: the two variances and the squared difference of the means.
    """
    seen = ((a - b) ** 2).mean(axis=1)
    by_chance = a.var(axis=1) + b.var(axis=1) + (a.mean(axis=1) - b.mean(axis=1)) ** 2
    either_is_constant = (a.var(axis=1) == 0) | (b.var(axis=1) == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(either_is_constant, np.nan, 1 - seen / by_chance)
