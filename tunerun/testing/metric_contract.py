"""The contract of `tunerun.metrics.Metric`, to check on every implementation.

def test_my_metric_keeps_the_contract():
    check_metric(MyMetric(), expected=["yes", "no", "no"], answers=["yes", "no", "maybe"])
"""

# ruff: noqa: S101 - asserts are what a contract suite consists of

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunerun.metrics import Metric

_TOLERANCE = 1e-9
"""Rows that are added in another order give the same value but for rounding."""


def check_metric(metric: Metric, expected: Sequence[str], answers: Sequence[str]) -> None:
    """Assert that a metric of answers satisfies the contract on some pairs.

    Checked: its rows are finite numbers, one row for each pair; its value is finite, independent of the order of the
    pairs, a function of the means over rows alone, and the same whether computed for many means at once or for each.
    The value of a row-wise metric is the mean.

    Args:
        metric: the metric to check.
        expected: expected outputs, at least two.
        answers: the model's answers, in the same order.

    Raises:
        AssertionError: the metric violates the contract.
    """
    rows = metric.rows(expected, answers)
    assert rows.dtype == np.float64
    assert rows.ndim == 2
    assert len(rows) == len(expected) >= 2
    assert np.isfinite(rows).all()

    value = float(metric.value(rows.mean(axis=0)))
    assert np.isfinite(value)
    backwards = metric.rows(expected[::-1], answers[::-1])
    assert abs(float(metric.value(backwards.mean(axis=0))) - value) < _TOLERANCE

    # Means with random weights are what a bootstrap computes: many at once, each equal to its value alone.
    weights = np.random.default_rng(0).dirichlet(np.ones(len(rows)), size=(2, 3))
    together = metric.value(weights @ rows)
    assert together.shape == (2, 3)
    assert np.isfinite(together).all()
    for place in np.ndindex(2, 3):
        assert abs(float(metric.value(weights[place] @ rows)) - float(together[place])) < _TOLERANCE
    if not metric.is_corpus:
        # Paired tests compare the scores of single rows, so that a row has to have exactly one.
        assert rows.shape[1] == 1
        assert np.allclose(together, (weights @ rows)[..., 0])
