"""What held-out rows can show, before anything runs: Connor's formula for paired shares (1987, Biometrics 43:207).

It errs on the safe side below 100 rows, by up to three points of the exact power; Miller's (arXiv 2411.00640), by as
much on the other.
"""

from __future__ import annotations

from math import ceil, sqrt
from statistics import NormalDist

from tunerun.statistics.intervals import critical_value

POWER = 0.8
_HALVINGS = 50


def share_lost(accuracy: float, difference: float) -> float:
    """The share of rows that a better model loses if the two models' errors are unrelated: the worst plausible.

    Args:
        accuracy: of the weaker model. difference: what the better one has more.
    """
    return max(0.0, accuracy * (1 - accuracy - difference))


def rows_needed(difference: float, lost: float, *, comparisons: int = 1, alpha: float = 0.05) -> int:
    """Rows that show a difference of two shares with a power of 80 %.

    Args:
        difference: of the shares, above 0.
        lost: share of rows that the better model loses.
        comparisons: in the family; alpha is divided by them.
    """
    discordant = 2 * lost + difference
    z_alpha, z_beta = critical_value(alpha / comparisons), NormalDist().inv_cdf(POWER)
    root = z_alpha * sqrt(discordant) + z_beta * sqrt(max(0.0, discordant - difference**2))
    return ceil((root / difference) ** 2)


def smallest_visible(
    rows: int, accuracy: float = 0.5, *, related: float = 1.0, comparisons: int = 1, alpha: float = 0.05
) -> float | None:
    """The smallest difference that rows show with a power of 80 %.

    Args:
        accuracy: of the model to beat.
        related: factor on the share of lost rows: 1 where errors are unrelated, 0.5 halfway to a model that loses none.
        comparisons, alpha: as `rows_needed`.

    Returns:
        None: not even a model that is always right could be seen.
    """
    low, high = 0.0, 1 - accuracy
    if (
        high <= 0
        or rows_needed(high, related * share_lost(accuracy, high), comparisons=comparisons, alpha=alpha) > rows
    ):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        lost = related * share_lost(accuracy, middle)
        if rows_needed(middle, lost, comparisons=comparisons, alpha=alpha) > rows:
            low = middle
        else:
            high = middle
    return high


def rows_for_equality(worth: float, alpha: float = 0.05) -> int:
    """Rows below which two models cannot be called equal within `worth`, even if they never disagree."""
    z = critical_value(2 * alpha)
    return ceil(z * z * (1 - worth) / worth)


def rows_needed_for_mean(
    difference: float, deviation: float, *, comparisons: int = 1, alpha: float = 0.05, other: float = 0.0
) -> int | None:
    """Rows that show a difference of means with a power of 80 % (Miller, arXiv 2411.00640).

    Args:
        difference: of the means, not 0.
        deviation: standard deviation of the rows' differences.
        other: variance of the difference that more rows do not lower, such as that of seeds.

    Returns:
        None: no number of rows would.
    """
    z = critical_value(alpha / comparisons) + NormalDist().inv_cdf(POWER)
    allowed = (difference / z) ** 2 - other
    return ceil(deviation**2 / allowed) if allowed > 0 else None
