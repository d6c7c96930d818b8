"""Looking early: whether one of two models is decided to be the better one, however often that is looked at.

The scores of two models on the same rows are compared one row after the other. With d_i, the difference on row i as a
share of the largest one possible, and bets l between -1 and 1, the mean over the bets of the products of 1 + l d_i is a
martingale that begins at 1 where neither model is better, whatever the sizes of the differences. So it reaches t at any
time with a probability of at most 1/t (Ville 1939), and the rows may be looked at after each one. The bets are those of
the Beta(1/2, 1/2) mixture at its Chebyshev nodes: for rows that are right or wrong it is 2^(b+c) B(b+1/2, c+1/2) /
B(1/2, 1/2) with b rows won and c lost, and a clean sweep of 7 decides at 20.

With `comparisons` pairs of models and the limit `comparisons / alpha`, the probability that any model is called worse
than one that is not better is at most alpha (union bound), although all pairs are looked at after every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunerun.metrics.base import FloatArray

BETS = 128
"""Nodes of the mixture: it is exact up to 255 rows; with more it bets a little less, and is as valid."""

_NODES = np.cos((2 * np.arange(1, BETS + 1) - 1) * np.pi / (2 * BETS))


@dataclass(frozen=True)
class Decided:
    """That one model is worse than another.

    Attributes:
        units: rows (or clusters of rows) after which it was decided.
        e_value: the evidence then; 1 / e_value is a p value that holds at any time.
        needed: the limit that it had to reach.
    """

    units: int
    e_value: float
    needed: float


def e_values(differences: FloatArray) -> FloatArray:
    """The evidence after each row that one of two models is better.

    Args:
        differences: of their scores by row, each between -1 and 1.
    """
    logs = np.cumsum(np.log1p(np.multiply.outer(np.asarray(differences, dtype=float), _NODES)), axis=0)
    top = logs.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # evidence beyond what a float holds is infinite
        found: FloatArray = np.exp(top[:, 0]) * np.exp(logs - top).mean(axis=1)
    return found


def decided_worse(differences: FloatArray, *, comparisons: int, alpha: float) -> Decided | None:
    """Whether a model is decided to be worse than another, at any of the rows so far.

    Args:
        differences: its scores minus the other one's by row in the order of asking, each between -1 and 1; higher is
            better.
        comparisons: pairs of models that are looked at. alpha: the error rate of all of them together.

    Returns:
        When that was; None: it is not decided, or it is the better one.
    """
    needed, evidence = comparisons / alpha, e_values(differences)
    crossed = np.flatnonzero(evidence >= needed)
    if not len(crossed) or float(np.sum(differences[: crossed[0] + 1])) >= 0:
        return None
    return Decided(int(crossed[0]) + 1, float(evidence[crossed[0]]), needed)


def pairs(models: int) -> int:
    """How many pairs there are of some models."""
    return models * (models - 1) // 2


def whole_clusters(differences: FloatArray, clusters: Sequence[int], rows: int) -> FloatArray:
    """The differences of clusters instead of rows, in the order in which they became whole.

    Rows of one source are not independent, so a cluster is one step; its sum is a share of the largest cluster's size.

    Args:
        differences: of the rows so far. clusters: of all rows.
        rows: how many rows there are so far.
    """
    sizes: dict[int, int] = {}
    for cluster in clusters:
        sizes[cluster] = sizes.get(cluster, 0) + 1
    largest, left = max(sizes.values()), dict(sizes)
    sums: dict[int, float] = dict.fromkeys(sizes, 0.0)
    found = []
    for cluster, difference in zip(clusters[:rows], differences, strict=True):
        sums[cluster] += float(difference)
        left[cluster] -= 1
        if not left[cluster]:
            found.append(sums[cluster] / largest)
    return np.array(found, dtype=float)
