"""An anytime-valid test of whether one of two models is better: it may be evaluated after every row.

The scores of two models on the same rows are compared row by row. Let d_i be the difference on row i as a share of the
largest possible difference, and l a bet between -1 and 1. Averaged over the bets, the products of 1 + l d_i are a
martingale that starts at 1 if neither model is better, whatever the sizes of the differences. By Ville's inequality
(1939) it ever reaches t with probability at most 1/t, so evaluating it after every row costs no error rate. The bets
are the Chebyshev nodes of the Beta(1/2, 1/2) mixture: for rows that are right or wrong the mixture is
2^(b+c) B(b+1/2, c+1/2) / B(1/2, 1/2) with b rows won and c lost, and 7 wins without a loss reach a limit of 20.

With `comparisons` pairs of models and the limit `comparisons / alpha`, the probability that any model is called worse
than one that is not better is at most alpha (union bound), although all pairs are evaluated after every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunerun.metrics.base import FloatArray

BETS = 128
"""Nodes of the mixture: exact up to 255 rows (Chebyshev-Gauss quadrature); beyond that it is slightly less powerful but
equally valid, because any mean over bets is a martingale."""

_NODES = np.cos((2 * np.arange(1, BETS + 1) - 1) * np.pi / (2 * BETS))


@dataclass(frozen=True)
class Decided:
    """The decision that one model is worse than another.

    Attributes:
        units: rows (or clusters of rows) after which it was decided.
        e_value: the evidence at that row; 1 / e_value is an anytime-valid p value.
        needed: the limit that the evidence had to reach.
    """

    units: int
    e_value: float
    needed: float


def e_values(differences: FloatArray) -> FloatArray:
    """Return, after each row, the e-value of "one of the two models is better".

    Args:
        differences: [rows], of the two models' scores, each between -1 and 1.

    Returns:
        [rows], each 0 or more; 1 means no evidence either way.
    """
    logs = np.cumsum(np.log1p(np.multiply.outer(np.asarray(differences, dtype=float), _NODES)), axis=0)
    top = logs.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # evidence beyond the range of a float becomes infinite
        evidence: FloatArray = np.exp(top[:, 0]) * np.exp(logs - top).mean(axis=1)
    return evidence


def decided_worse(differences: FloatArray, *, comparisons: int, alpha: float) -> Decided | None:
    """Decide whether a model is worse than another, at any of the rows so far.

    Args:
        differences: [rows], the model's scores minus the other's, in the order in which rows were answered, each
            between -1 and 1; higher is better.
        comparisons: number of pairs of models that are compared.
        alpha: error rate of all comparisons together.

    Returns:
        The first row at which it was decided; None: undecided, or the model is the better one.
    """
    needed, evidence = comparisons / alpha, e_values(differences)
    crossed = np.flatnonzero(evidence >= needed)
    # The evidence says that one of the two is better; the sum of the differences says which.
    if not len(crossed) or float(np.sum(differences[: crossed[0] + 1])) >= 0:
        return None
    return Decided(int(crossed[0]) + 1, float(evidence[crossed[0]]), needed)


def pairs(models: int) -> int:
    """Return the number of pairs among `models` models."""
    return models * (models - 1) // 2


def whole_clusters(differences: FloatArray, clusters: Sequence[int], rows: int) -> FloatArray:
    """Return the differences of clusters instead of rows, in the order in which the clusters were completed.

    Rows from one source are not independent, so a cluster is one step of the test. Its summed difference is divided by
    the size of the largest cluster, which keeps every step between -1 and 1.

    Args:
        differences: of the rows answered so far.
        clusters: cluster of each row, including rows not answered yet.
        rows: number of rows answered so far.

    Returns:
        One difference for each completed cluster.
    """
    sizes: dict[int, int] = {}
    for cluster in clusters:
        sizes[cluster] = sizes.get(cluster, 0) + 1
    largest, left = max(sizes.values()), dict(sizes)
    sums: dict[int, float] = dict.fromkeys(sizes, 0.0)
    completed = []
    for cluster, difference in zip(clusters[:rows], differences, strict=True):
        sums[cluster] += float(difference)
        left[cluster] -= 1
        if not left[cluster]:
            completed.append(sums[cluster] / largest)
    return np.array(completed, dtype=float)
