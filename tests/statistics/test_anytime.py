"""Looking early: the evidence, and that looking after every row errs no more often than promised."""

from __future__ import annotations

from itertools import permutations
from math import exp, lgamma, log

import numpy as np
import pytest

from tunerun.metrics.base import FloatArray
from tunerun.statistics.anytime import decided_worse, e_values, pairs, whole_clusters


def reference(won: int, lost: int) -> float:
    """The closed form 2^(b+c) B(b+1/2, c+1/2) / B(1/2, 1/2)."""

    def beta(a: float, b: float) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    return exp((won + lost) * log(2) + beta(won + 0.5, lost + 0.5) - beta(0.5, 0.5))


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (7, 0), (3, 9), (40, 60), (120, 80)])
def test_the_evidence_of_right_and_wrong_rows_is_the_closed_form(won: int, lost: int) -> None:
    """The order of rows does not matter, and rows on which both models are alike change nothing."""
    rows = np.array([1.0] * won + [-1.0] * lost + [0.0] * 5)
    np.random.default_rng(0).shuffle(rows)
    assert e_values(rows)[-1] == pytest.approx(reference(won, lost), rel=1e-9)


def test_a_clean_sweep_of_seven_decides_one_pair() -> None:
    """Seven wins reach the limit at 0.05 and six do not; the better model is never decided to be the worse one."""
    for rows, is_decided in ((6, False), (7, True)):
        decided = decided_worse(-np.ones(rows), comparisons=1, alpha=0.05)
        assert (decided is not None) is is_decided
    decided = decided_worse(-np.ones(50), comparisons=1, alpha=0.05)
    assert decided is not None
    assert (decided.units, decided.needed) == (7, 20)
    assert decided.e_value >= 20
    assert decided_worse(np.ones(50), comparisons=1, alpha=0.05) is None
    assert np.isinf(e_values(-np.ones(5000))[-1])


def decisions(scores: FloatArray, alpha: float) -> dict[int, int]:
    """Return for each model after how many rows it was decided to be worse than some other, from [models, rows]."""
    first_rows: dict[int, int] = {}
    for one, other in permutations(range(len(scores)), 2):
        decided = decided_worse(scores[one] - scores[other], comparisons=pairs(len(scores)), alpha=alpha)
        if decided is not None:
            first_rows[one] = min(first_rows.get(one, decided.units), decided.units)
    return first_rows


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["binary", "shared rows", "skewed scores"])
def test_models_that_are_alike_are_rarely_stopped(kind: str) -> None:
    """Four equal models, evaluated after each of 120 rows: any of them is stopped in at most 5 % of worlds."""
    random = np.random.default_rng(12)
    wrong, worlds = 0, 300
    for _ in range(worlds):
        if kind == "skewed scores":
            scores = random.beta(0.3, 1.5, (4, 120))
        else:
            difficulty = random.beta(0.5, 0.5, 120) if kind == "shared rows" else np.full(120, 0.5)
            scores = (random.random((4, 120)) < difficulty).astype(float)
        wrong += bool(decisions(scores, alpha=0.05))
    assert wrong / worlds <= 0.05


@pytest.mark.slow
def test_a_model_that_is_much_worse_is_stopped_early() -> None:
    """A model 30 points below three equal ones is stopped in nearly every world, after about a third of 200 rows."""
    random = np.random.default_rng(3)
    after, wrong, worlds = [], 0, 100
    for _ in range(worlds):
        scores = (random.random((4, 200)) < np.array([0.8, 0.8, 0.8, 0.5])[:, None]).astype(float)
        worse = decisions(scores, alpha=0.05)
        wrong += bool(worse.keys() - {3})
        after += [worse[3]] if 3 in worse else []
    assert wrong / worlds <= 0.05
    assert len(after) / worlds >= 0.95
    assert float(np.mean(after)) < 90


def test_a_cluster_is_one_step_once_it_is_whole() -> None:
    """The rows of a cluster count together, once all of them are answered."""
    clusters = [0, 1, 0, 1, 1, 2]
    sums = whole_clusters(np.array([-1.0, 0.0, -1.0, -1.0, -1.0]), clusters, 5)
    assert sums.tolist() == pytest.approx([-2 / 3, -2 / 3])
    assert whole_clusters(np.array([-1.0]), clusters, 1).tolist() == []
