"""A measure that is not a mean of rows, made one: what each row adds to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tunerun.statistics.flips import Array


def pseudo_values(contributions: Array, sizes: Array, value: Callable[[Array], Array]) -> Array:
    """The jackknife's pseudo-values (Tukey 1958): the measure, and how it changes without each row.

    Their mean is the measure up to a term of 1/rows, and they can be tested and given intervals as scores of rows are.

    Args:
        contributions: [rows, m], or sums over the rows of each cluster.
        sizes: rows of each cluster; ones where every row is its own.
        value: means over rows, [..., m] to [...].

    Returns:
        [rows], shifted so that their mean is the measure exactly.
    """
    units = len(contributions)
    total, rows = contributions.sum(axis=0), sizes.sum()
    whole = float(value(total / rows))
    if units == 1:
        return np.array([whole])
    without = value((total - contributions) / (rows - sizes)[:, None])
    return np.asarray(whole + (units - 1) * (without.mean() - without))
