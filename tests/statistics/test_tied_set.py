"""The tied set, against known values and its definition."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tunerun.statistics import tied_set_p
from tunerun.statistics.flips import Array

VECTORS = [
    (([1] * 8 + [0] * 2, [1] * 6 + [0] * 3 + [1], [1] + [0] * 9), [1, 0.625, 0.0078125]),
    (([1] * 10, [1] * 10, [0] * 10), [1, 0.5, 2**-10]),
    (([1] * 10, [1] * 10, [1] * 10), [1, 1, 1]),
]


@pytest.mark.parametrize(("columns", "p_values"), VECTORS)
def test_tied_set(columns: tuple[list[int], ...], p_values: list[float]) -> None:
    """Where all patterns are enumerated, p values are exact fractions."""
    assert tied_set_p(np.array(columns, dtype=float).T) == p_values


def by_brute_force(scores: Array) -> list[float]:
    left, result, running = list(range(scores.shape[1])), [1.0] * scores.shape[1], 0.0
    live = scores[np.any(scores != scores[:, :1], axis=1)]
    patterns = [np.array(pattern) for pattern in product([1, -1], repeat=len(live))]

    def statistic(worse: int, better: int, pattern: Array | int) -> float:
        difference = live[:, better] - live[:, worse]
        length = np.sqrt((difference**2).sum())
        return float((pattern * difference).sum() / length) if length > 1e-9 else 0.0

    while len(left) > 1 and len(live):
        pairs = [(i, j) for i in left for j in left if i != j]
        most = max(round(statistic(i, j, 1), 9) for i, j in pairs)
        extreme = {i for i, j in pairs if round(statistic(i, j, 1), 9) >= most}
        worst = min(extreme, key=lambda i: (round(float(live[:, i].sum()), 9), -i))
        count = 0.0
        for pattern in patterns:
            gap = max(abs(statistic(i, j, pattern)) for i, j in pairs) - most
            count += 1.0 if gap > 1e-4 else 0.5 if abs(gap) <= 1e-4 else 0.0
        running = max(running, count / len(patterns))
        result[worst] = running
        left.remove(worst)
    return result


@settings(deadline=None, max_examples=40)
@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_the_tied_set_is_its_definition(scores: Array) -> None:
    """It equals the brute-force computation for any small table."""
    assert tied_set_p(scores) == pytest.approx(by_brute_force(scores))
