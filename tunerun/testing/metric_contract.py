"""The contract of `tunerun.metrics.Metric`, to be checked on every implementation.

def test_my_metric_keeps_the_contract():
    check_metric(MyMetric(), expected=["yes", "no", "no"], answers=["yes", "no", "maybe"])
"""

# ruff: noqa: S101 - asserts are what a contract suite consists of

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunerun.metrics import Metric

_TOLERANCE = 1e-9


def check_metric(metric: Metric, expected: Sequence[str], answers: Sequence[str]) -> None:
    """Assert that a metric of answers keeps the contract on these pairs, of which there are two at least.

    Its rows are finite numbers, one line for each pair; its value is finite, does not depend on the order of the pairs,
    follows from means over rows alone, and is computed for many means at once as for each. The value of a
    row-wise metric is the mean.
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

    weights = np.random.default_rng(0).dirichlet(np.ones(len(rows)), size=(2, 3))
    together = metric.value(weights @ rows)
    assert together.shape == (2, 3)
    assert np.isfinite(together).all()
    for place in np.ndindex(2, 3):
        assert abs(float(metric.value(weights[place] @ rows)) - float(together[place])) < _TOLERANCE
    if not metric.is_corpus:
        assert rows.shape[1] == 1
        assert np.allclose(together, (weights @ rows)[..., 0])
