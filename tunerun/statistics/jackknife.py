"""Jackknife pseudo-values: turn a measure that is not a mean of rows, such as macro F1, into a mean over rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tunerun.statistics.flips import Array


def pseudo_values(contributions: Array, sizes: Array, value: Callable[[Array], Array]) -> Array:
    """Return the jackknife's pseudo-values (Tukey 1958) of a measure, which tests and intervals can treat as scores.

    A pseudo-value combines the measure on all rows with the measure without one row; the mean of all pseudo-values is
    the measure up to a term of order 1/rows.

    Args:
        contributions: [rows, m], or [clusters, m] of sums over the rows of each cluster.
        sizes: number of rows of each cluster; all 1 if rows are not clustered.
        value: maps means over rows, [..., m], to the measure, [...].

    Returns:
        [rows] or [clusters], shifted so that their mean is exactly the measure.
    """
    units = len(contributions)
    total, rows = contributions.sum(axis=0), sizes.sum()
    whole = float(value(total / rows))
    if units == 1:
        return np.array([whole])
    # Tukey's n * whole - (n - 1) * without, shifted: unshifted, their mean would be the jackknife's bias-corrected
    # value, which no table shows.
    without = value((total - contributions) / (rows - sizes)[:, None])
    return np.asarray(whole + (units - 1) * (without.mean() - without))
