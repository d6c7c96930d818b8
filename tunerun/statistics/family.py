"""Several comparisons on the same rows, tested together: step-down maxT by joint sign flips.

Westfall and Young's method (1993): the largest statistic of each flip is what chance gives to a search for the
largest. Over 48 simulated worlds without a difference some comparison was called different in 2.1 to 5.9 %, and
"better" in at most 3.2 %; picking the best and testing it alone gave 9 to 47 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tunerun.statistics.flips import FLIPS, TIE, Array, SignPatterns


@dataclass(frozen=True)
class FamilyTest:
    """The result of `max_t`.

    Attributes:
        p_values: two-sided and corrected for all comparisons, one for each column.
        critical_value: of a 1 - alpha interval that holds for all columns at once, in standard errors.
        smallest_p: the smallest value that a p of this table can have; above alpha nothing can be decided.
        few_rows_decide: columns of which fewer than five rows carry half of the squared differences. Flips test whether
            differences are symmetric, so there a mean of zero with rare large losses may look like a difference.
    """

    p_values: tuple[float, ...]
    critical_value: float
    smallest_p: float
    few_rows_decide: tuple[bool, ...]


def max_t(differences: Array, *, alpha: float = 0.05, flips: int = FLIPS, seed: int = 0) -> FamilyTest:
    """Test for each column whether its differences are more than chance, corrected for all columns.

    Args:
        differences: [rows, columns], of each comparison on each row (or cluster, see `cluster_sums`).
        flips: random sign patterns where there are too many to take all.

    Returns:
        A column without any difference has p = 1.
    """
    live = differences[np.any(differences != 0, axis=1)]
    squares = np.sum(live**2, axis=0)
    columns = np.flatnonzero(squares > 0)
    p_values = np.ones(differences.shape[1])
    if not len(columns):
        return FamilyTest(tuple(p_values), np.inf, 1.0, (False,) * differences.shape[1])
    scaled = live[:, columns] / np.sqrt(squares[columns])
    observed = np.abs(scaled.sum(axis=0))
    order = np.argsort(-observed, kind="stable")
    patterns = SignPatterns.of(len(live), flips, seed)
    above, tied = np.zeros(len(columns), np.int64), np.zeros(len(columns), np.int64)
    largest: list[Array] = []
    for signs in patterns.blocks():
        statistics = np.abs(signs @ scaled)[:, order]
        # Each column competes with those that are less extreme than it: the step down.
        running = np.maximum.accumulate(statistics[:, ::-1], axis=1)[:, ::-1]
        difference = running - observed[order]
        above += np.sum(difference > TIE, axis=0)
        tied += np.sum(np.abs(difference) <= TIE, axis=0)
        largest.append(running[:, 0])
    p_values[columns[order]] = np.maximum.accumulate(patterns.p_value(above, tied))
    return FamilyTest(
        p_values=tuple(float(p) for p in p_values),
        critical_value=float(np.quantile(np.concatenate(largest), 1 - alpha)),
        smallest_p=0.5 / patterns.count if patterns.is_exact else 1 / (patterns.count + 1),
        few_rows_decide=tuple(_few_rows_decide(differences[:, column]) for column in range(differences.shape[1])),
    )


def _few_rows_decide(column: Array) -> bool:
    squares = np.sort(column**2)[::-1]
    total = squares.sum()
    return bool(total > 0 and squares[:4].sum() > total / 2 and np.ptp(squares[squares > 0]) > 0)


def cluster_sums(values: Array, clusters: list[int]) -> Array:
    """Sum rows that belong together: clusters take the rows' part in every test.

    Args:
        values: [rows, columns].
        clusters: of each row, numbered from 0.

    Returns:
        [clusters, columns].
    """
    sums = np.zeros((max(clusters) + 1, values.shape[1]))
    np.add.at(sums, clusters, values)
    return sums
