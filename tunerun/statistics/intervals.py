"""Confidence intervals of a share, of a difference of two shares on the same rows, and of a mean difference.

Neither the normal approximation nor the bootstrap is used: at 24 rows their 95 % intervals cover the truth in as few as
58 to 77 % of runs (measured in 42 simulated worlds; Bowyer et al. 2025, arXiv 2503.01747, find the same). The coverage
of Tango's interval stayed above 93 %.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt
from statistics import NormalDist

Interval = tuple[float, float]

_HALVINGS = 60
"""Bisections: they narrow an interval of length 2 down to the last bit of a double."""


def critical_value(alpha: float) -> float:
    """Return the two-sided critical value of the normal distribution, in standard errors: 1.96 at alpha 0.05."""
    return NormalDist().inv_cdf(1 - alpha / 2)


def wilson(share: float, rows: float, alpha: float = 0.05) -> Interval:
    """Return Wilson's score interval of a share (Wilson 1927, JASA 22:209).

    Args:
        share: observed share, 0 to 1; not necessarily a whole number of rows.
        rows: number of rows it was observed on.
        alpha: 1 - alpha is the confidence level.

    Returns:
        Lower and upper end, within 0 and 1.
    """
    z = critical_value(alpha)
    centre = share + z * z / (2 * rows)
    reach = z * sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    scale = 1 + z * z / rows
    return (max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale))


def tango(wins: int, losses: int, rows: int, z: float) -> Interval:
    """Return Tango's score interval of a paired difference of shares (Tango 1998, Statistics in Medicine 17:891).

    Args:
        wins, losses: discordant rows, as in `pairs.mid_p`.
        rows: all rows, including concordant ones.
        z: critical value: `critical_value(alpha)` for one pair, `FamilyTest.critical_value` for several.

    Returns:
        Lower and upper end of the difference, within -1 and 1.
    """
    observed = (wins - losses) / rows

    def statistic(difference: float) -> float:
        return _tango_statistic(wins, losses, rows, difference)

    low = -1.0 if observed == -1 else _root(lambda x: statistic(x) - z, -1.0, observed)
    high = 1.0 if observed == 1 else _root(lambda x: statistic(x) + z, observed, 1.0)
    return (low, high)


def _tango_statistic(wins: int, losses: int, rows: int, difference: float) -> float:
    """Distance of an assumed difference from the observed one, in standard errors under the assumed difference."""
    linear = (2 * rows - wins + losses) * difference - wins - losses
    # The share of lost rows that is likeliest under the assumed difference; rounding can make the radicand slightly
    # negative at the ends.
    inner = max(0.0, linear * linear + 8 * rows * losses * difference * (1 - difference))
    share_lost = (sqrt(inner) - linear) / (4 * rows)
    variance = rows * (2 * share_lost + difference * (1 - difference))
    distance = wins - losses - rows * difference
    if variance <= 0:
        return 0.0 if abs(distance) < 1e-12 * rows else inf if distance > 0 else -inf
    return distance / sqrt(variance)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Find the zero of a decreasing function by bisection."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def score_interval(mean: float, deviation: float, rows: int, z: float) -> Interval:
    """Return the score-form interval of a mean difference, for measures that are not shares.

    Args:
        mean: of the rows' differences.
        deviation: their maximum-likelihood standard deviation (divided by rows, not by rows - 1).
        rows: number of rows, or of clusters.
        z: critical value, as in `tango`.

    Returns:
        Lower and upper end, in the unit of `mean`; infinite if there are too few rows.
    """
    ratio = z / sqrt(rows)
    if ratio >= 1:  # too few rows for this critical value: no difference can be excluded
        return (-inf, inf) if deviation else (mean, mean)
    reach = deviation * ratio / sqrt(1 - ratio * ratio)
    return (mean - reach, mean + reach)
