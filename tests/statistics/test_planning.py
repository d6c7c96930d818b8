"""Power before a run, the winner's number after it, and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from tunerun.statistics import (
    bias_corrected,
    consistency,
    pooled,
    pseudo_values,
    rows_for_equality,
    rows_needed,
    rows_needed_for_mean,
    smallest_visible,
    tied_settings_p,
    two_way,
)


@pytest.mark.parametrize(
    ("difference", "lost", "rows"),
    [(0.05, 0.05, 469), (0.05, 0.1, 783), (0.1, 0.05, 155), (0.1, 0.1, 234), (0.2, 0.05, 57)],
)
def test_rows_needed(difference: float, lost: float, rows: int) -> None:
    """It is Connor's formula."""
    assert rows_needed(difference, lost) == rows


def test_what_rows_can_show() -> None:
    """More rows show smaller differences, more comparisons larger ones; a nearly perfect model leaves none."""
    assert smallest_visible(100) == pytest.approx(0.196, abs=0.001)
    assert smallest_visible(24) > smallest_visible(100) > smallest_visible(300)  # type: ignore[operator]
    assert smallest_visible(100, comparisons=12) > smallest_visible(100)  # type: ignore[operator]
    assert smallest_visible(100, related=0.5) < smallest_visible(100)  # type: ignore[operator]
    assert smallest_visible(24, 0.9) is None
    assert smallest_visible(24, 1.0) is None


def test_rows_below_which_nothing_is_equal() -> None:
    """They are needed even where two models never disagree."""
    assert [rows_for_equality(worth) for worth in (0.1, 0.05, 0.03, 0.02)] == [25, 52, 88, 133]


def test_the_best_score_is_corrected_for_the_choice() -> None:
    """Over tables of equal points the raw score of the best is far too high, and the corrected one is not."""
    generator = np.random.default_rng(3)
    tables = (generator.random((24, 12)) < 0.6 for _ in range(60))
    scores = [(table.mean(axis=0).max(), bias_corrected(table.astype(float), resamples=300)) for table in tables]
    raw, corrected = np.mean(scores, axis=0) - 0.6
    assert raw > 0.1
    assert abs(corrected) < 0.04


def test_the_seeds_variance_counts() -> None:
    """A difference that is clear by its rows is not significant where seeds move it as much."""
    generator = np.random.default_rng(0)
    rows = generator.random(200)
    quiet = [np.array([(rows < 0.6 + shift).astype(float)] * 3) for shift in (0.0, 0.08)]
    moved = [
        np.array([(rows < 0.6 + shift + seed).astype(float) for seed in (-0.12, 0.0, 0.12)]) for shift in (0.0, 0.08)
    ]
    p_values = []
    for tables in (quiet, moved):
        difference = tables[1].mean(axis=0) - tables[0].mean(axis=0)
        p_values.append(two_way(difference, pooled(tables), [3, 3]).p)
    assert p_values[0] < 0.01 < 0.2 < p_values[1]


def test_consistency() -> None:
    """It is the share of rows that all seeds answer alike."""
    assert consistency([["a", "b", "c"], ["a", "x", "c"]]) == pytest.approx(2 / 3)


def test_a_point_with_one_seed_adds_nothing_to_the_variance() -> None:
    """Where no point has a second seed, the variance is not defined."""
    generator = np.random.default_rng(1)
    tables = [(generator.random((3, 50)) < 0.5).astype(float) for _ in range(2)]
    assert pooled([*tables, tables[0][:1]]) == pooled(tables)
    assert pooled(tables).freedom == 4
    with pytest.raises(ValueError, match="no point has two seeds"):
        pooled([tables[0][:1]])


def test_settings_that_are_equal_are_tied() -> None:
    """A point far below the best is not tied; identical points always are, even where nothing varies."""
    generator = np.random.default_rng(6)
    tables = [(generator.random((3, 120)) < share).astype(float) for share in (0.8, 0.8, 0.3)]
    means = np.stack([table.mean(axis=0) for table in tables], axis=1)
    p_values = tied_settings_p(means, pooled(tables), [3, 3, 3])
    assert max(p_values) == 1
    assert min(p_values[:2]) > 0.05 > p_values[2]
    same = [np.ones((2, 10)), np.ones((2, 10)), np.zeros((2, 10))]
    assert tied_settings_p(np.stack([t[0] for t in same], axis=1), pooled(same), [2, 2, 2]) == [1, 1, 0]


def test_rows_that_would_show_a_difference_of_means() -> None:
    """Half of the difference takes four times as many rows; no number helps where seeds alone move it more."""
    assert rows_needed_for_mean(0.1, 0.4) == pytest.approx(126, abs=1)
    assert rows_needed_for_mean(0.05, 0.4) == pytest.approx(503, abs=2)
    assert rows_needed_for_mean(0.05, 0.4, other=0.01) is None


def test_pseudo_values_of_a_mean_are_its_rows() -> None:
    """Of any other measure, the mean of the pseudo-values is the measure."""
    rows = np.array([[1.0, 2], [0, 1], [3, 1]])
    sizes = np.ones(3)
    assert pseudo_values(rows, sizes, lambda means: means[..., 0]) == pytest.approx(rows[:, 0])
    assert pseudo_values(rows, sizes, lambda means: means[..., 0] / means[..., 1]).mean() == pytest.approx(1.0)
