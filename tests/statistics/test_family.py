"""The joint sign-flip test, against known values, brute force and chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tunerun.statistics import cluster_sums, max_t, max_t_of_swaps, mid_p
from tunerun.statistics.flips import Array


def signs(*columns: str) -> Array:
    values = {"+": 1.0, "-": -1.0, "0": 0.0}
    return np.array([[values[sign] for sign in column] for column in columns]).T


VECTORS = {
    ("++++++00", "++++-000"): (0.015625, 0.21875),
    ("++++++++00", "+++++00000", "000+++--00"): (0.00390625, 0.05859375, 0.6875),
    ("++++++00", "++++++00"): (0.015625, 0.015625),
    ("++++++00", "------00"): (0.015625, 0.015625),
    ("++++++00", "00000000"): (0.015625, 1),
    ("0000", "0000"): (1, 1),
}


@pytest.mark.parametrize(("columns", "p_values"), VECTORS.items())
def test_max_t(columns: tuple[str, ...], p_values: tuple[float, ...]) -> None:
    """Where all patterns are enumerated, p values are exact fractions."""
    assert max_t(signs(*columns)).p_values == p_values


def test_clusters_flip_together() -> None:
    """Six wins in clusters of two are three independent wins."""
    assert max_t(cluster_sums(signs("++++++00"), [0, 0, 1, 1, 2, 2, 3, 3])).p_values == (0.125,)


@given(st.integers(0, 10), st.integers(0, 10), st.integers(0, 5))
def test_one_binary_column_is_mcnemar(wins: int, losses: int, equal: int) -> None:
    """With ties counted half, the flip test of one pair is the mid-p test, except for a draw, which neither calls a difference."""
    assume(wins != losses)
    column = np.array([[1.0]] * wins + [[-1.0]] * losses + [[0.0]] * equal).reshape(-1, 1)
    assert max_t(column, flips=2**20).p_values[0] == pytest.approx(mid_p(wins, losses))


def by_brute_force(differences: Array) -> list[float]:
    """Compute Westfall and Young's definition, one hypothesis and one pattern at a time."""
    live = differences[np.any(differences != 0, axis=1)]
    lengths = np.sqrt((live**2).sum(axis=0))
    observed = [abs(live[:, c].sum()) / lengths[c] if lengths[c] else 0.0 for c in range(live.shape[1])]
    order = sorted(range(live.shape[1]), key=lambda c: -observed[c])
    patterns = [np.array(pattern) for pattern in product([1, -1], repeat=len(live))]
    p_values, running = [1.0] * live.shape[1], 0.0
    for position, column in enumerate(order):
        if not lengths[column]:
            continue
        rest = [c for c in order[position:] if lengths[c]]
        count = 0.0
        for pattern in patterns:
            largest = max(abs((pattern * live[:, c]).sum()) / lengths[c] for c in rest)
            gap = largest - observed[column]
            count += 1.0 if gap > 1e-4 else 0.5 if abs(gap) <= 1e-4 else 0.0
        running = max(running, count / len(patterns))
        p_values[column] = running
    return p_values


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 4)), elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0]))
)
def test_max_t_is_its_definition(differences: Array) -> None:
    """It equals the brute-force computation for any small table."""
    assert max_t(differences).p_values == pytest.approx(by_brute_force(differences))


def test_random_flips_agree_with_enumerated_ones() -> None:
    """They agree within three standard errors, and are the same each time."""
    table = np.random.default_rng(5).choice([-1.0, 0.0, 1.0], size=(13, 3), p=[0.15, 0.4, 0.45])
    exact, drawn = max_t(table, flips=2**13), max_t(table, flips=4000)
    assert drawn == max_t(table, flips=4000)
    for p, q in zip(exact.p_values, drawn.p_values, strict=True):
        assert abs(p - q) <= 3 * (p * (1 - p) / 4000) ** 0.5 + 1e-3


def test_a_few_rows_that_decide_are_noticed() -> None:
    """Fewer than five rows with half of the squares are reported, unless all differences are equal in size."""
    rare = np.array([[0.01]] * 40 + [[-0.9]] * 3)
    assert max_t(rare).few_rows_decide == (True,)
    assert max_t(signs("+++000")).few_rows_decide == (False,)


def test_without_correction_each_column_is_tested_alone() -> None:
    """The uncorrected p values are those that Holm's correction by hand starts from."""
    table = signs("++++++00", "++++-000", "00000000")
    assert max_t(table).single_p == (mid_p(6, 0), mid_p(4, 1), 1)
    assert max_t(table).statistics == pytest.approx((6**0.5, 3 / 5**0.5, 0))


def test_swapping_rows_of_a_mean_is_flipping_differences() -> None:
    """Both tests give the same p values for a metric that is a mean; with clusters, sums are swapped."""
    generator = np.random.default_rng(8)
    points, baselines = generator.integers(0, 2, (3, 9)).astype(float), generator.integers(0, 2, (2, 9)).astype(float)
    differences = (points[:, None] - baselines).reshape(6, 9).T
    swapped = max_t_of_swaps(points[..., None], baselines[..., None], 9, lambda means: means[..., 0])
    assert swapped.p_values == pytest.approx(max_t(differences).p_values)
    assert swapped.single_p == pytest.approx(max_t(differences).single_p)
