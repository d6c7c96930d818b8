"""Agreement of two raters."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from tunerun.statistics import agreement


@pytest.mark.parametrize("seed", range(3))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    """With quadratic weights, on ratings that agree in part, it is scikit-learn's value."""
    chance = np.random.default_rng(seed)
    first = chance.integers(1, 6, size=60)
    second = np.clip(first + chance.integers(-1, 3, size=60), 1, 5)
    result = agreement(list(first), list(second))
    expected = cohen_kappa_score(first, second, labels=range(1, 6), weights="quadratic")
    assert result.kappa == pytest.approx(expected)
    assert result.low is not None
    assert result.high is not None
    assert result.low < expected < result.high
    assert (result.exact, result.within_one) == (np.mean(first == second), np.mean(abs(first - second) <= 1))


def test_full_agreement_and_a_constant_rater() -> None:
    """Full agreement has kappa 1; a rater who always gives the same rating has none."""
    same = agreement([1, 2, 5], [1, 2, 5])
    assert (same.kappa, same.exact) == (1.0, 1.0)
    constant = agreement([3, 3, 3], [3, 4, 5])
    assert (constant.kappa, constant.low, constant.high) == (None, None, None)
    assert constant.exact == pytest.approx(1 / 3)
    assert constant.within_one == pytest.approx(2 / 3)
