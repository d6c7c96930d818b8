"""Power of held-out rows, before anything runs: Connor's formula for paired shares (Connor 1987, Biometrics 43:207).

It is conservative: at 24 rows the smallest visible difference is up to three points larger than by the exact power of
mid-p. Miller's formula (arXiv 2411.00640) is optimistic, by three points there and by eleven in a family of twelve.
"""

from __future__ import annotations

from math import ceil, sqrt
from statistics import NormalDist

from tunerun.statistics.intervals import critical_value

POWER = 0.8
_HALVINGS = 50


def share_lost(accuracy: float, difference: float) -> float:
    """Return the share of rows that the better of two models loses if their errors are independent.

    Independence is the worst plausible case: models tuned from one base model tend to err on the same rows.

    Args:
        accuracy: of the weaker model, 0 to 1.
        difference: by how much the better model's accuracy is higher.
    """
    return max(0.0, accuracy * (1 - accuracy - difference))


def rows_needed(difference: float, lost: float, *, comparisons: int = 1, alpha: float = 0.05) -> int:
    """Return the number of rows that show a difference of two shares with a power of 80 %.

    Args:
        difference: of the shares, above 0.
        lost: share of rows that the better model loses.
        comparisons: size of the family of tests, by which alpha is divided (Bonferroni).
        alpha: family-wise error rate.
    """
    # The rows that one of the two has right and the other has not: the better model wins `lost + difference` of them.
    discordant = 2 * lost + difference
    z_alpha, z_beta = critical_value(alpha / comparisons), NormalDist().inv_cdf(POWER)
    root = z_alpha * sqrt(discordant) + z_beta * sqrt(max(0.0, discordant - difference**2))
    return ceil((root / difference) ** 2)


def smallest_visible(
    rows: int, accuracy: float = 0.5, *, related: float = 1.0, comparisons: int = 1, alpha: float = 0.05
) -> float | None:
    """Return the smallest difference of shares that some rows show with a power of 80 %.

    Args:
        rows: number of rows, or of clusters.
        accuracy: of the model to beat.
        related: factor on the share of lost rows: 1 if errors are independent, 0.5 halfway to a model that loses none.
        comparisons, alpha: as in `rows_needed`.

    Returns:
        The difference, 0 to 1; None: even a model that is always right would not show one.
    """
    low, high = 0.0, 1 - accuracy
    if (
        high <= 0
        or rows_needed(high, related * share_lost(accuracy, high), comparisons=comparisons, alpha=alpha) > rows
    ):
        return None
    # By bisection: the difference is on both sides of Connor's formula, because the share of lost rows depends on it.
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        lost = related * share_lost(accuracy, middle)
        if rows_needed(middle, lost, comparisons=comparisons, alpha=alpha) > rows:
            low = middle
        else:
            high = middle
    return high


def rows_for_equality(worth: float, alpha: float = 0.05) -> int:
    """Return the number of rows below which two models cannot be called equal, even if they never disagree.

    Args:
        worth: the difference within which they would be equal, above 0; see `evaluation.worth`.
        alpha: error rate of each of the two one-sided tests, hence the critical value at 2 * alpha.
    """
    z = critical_value(2 * alpha)
    return ceil(z * z * (1 - worth) / worth)


def rows_needed_for_mean(
    difference: float, deviation: float, *, comparisons: int = 1, alpha: float = 0.05, other: float = 0.0
) -> int | None:
    """Return the number of rows that show a difference of means with a power of 80 % (Miller, arXiv 2411.00640).

    Args:
        difference: of the means, not 0.
        deviation: standard deviation of the rows' differences.
        comparisons, alpha: as in `rows_needed`.
        other: variance of the difference that more rows do not reduce, such as that between seeds.

    Returns:
        The number of rows; None: no number of rows is enough.
    """
    z = critical_value(alpha / comparisons) + NormalDist().inv_cdf(POWER)
    allowed = (difference / z) ** 2 - other
    return ceil(deviation**2 / allowed) if allowed > 0 else None
