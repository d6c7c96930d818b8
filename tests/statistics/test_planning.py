"""Power before a run, the winner's number after it, and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from tunerun.statistics import (
    bias_corrected,
    consistency,
    pooled,
    rows_for_equality,
    rows_needed,
    smallest_visible,
    two_way_p,
)


@pytest.mark.parametrize(
    ("difference", "lost", "rows"),
    [(0.05, 0.05, 469), (0.05, 0.1, 783), (0.1, 0.05, 155), (0.1, 0.1, 234), (0.2, 0.05, 57)],
)
def test_rows_needed(difference: float, lost: float, rows: int) -> None:
    """Connor's formula."""
    assert rows_needed(difference, lost) == rows


def test_what_rows_can_show() -> None:
    """More rows show less, more comparisons show less, and a model that is nearly right leaves nothing to see."""
    assert smallest_visible(100) == pytest.approx(0.196, abs=0.001)
    assert smallest_visible(24) > smallest_visible(100) > smallest_visible(300)  # type: ignore[operator]
    assert smallest_visible(100, comparisons=12) > smallest_visible(100)  # type: ignore[operator]
    assert smallest_visible(100, related=0.5) < smallest_visible(100)  # type: ignore[operator]
    assert smallest_visible(24, 0.9) is None
    assert smallest_visible(24, 1.0) is None


def test_rows_below_which_nothing_is_equal() -> None:
    """Even where the two never disagree."""
    assert [rows_for_equality(worth) for worth in (0.1, 0.05, 0.03, 0.02)] == [25, 52, 88, 133]


def test_the_winners_number_is_corrected_for_the_choice() -> None:
    """Over tables of equal points the raw score of the best is far too high, the corrected one is not."""
    generator = np.random.default_rng(3)
    tables = (generator.random((24, 12)) < 0.6 for _ in range(60))
    scores = [(table.mean(axis=0).max(), bias_corrected(table.astype(float), resamples=300)) for table in tables]
    raw, corrected = np.mean(scores, axis=0) - 0.6
    assert raw > 0.1
    assert abs(corrected) < 0.04


def test_the_seeds_variance_counts() -> None:
    """A difference of rows that is clear by itself is not, where seeds move it as much."""
    generator = np.random.default_rng(0)
    rows = generator.random(200)
    quiet = [np.array([(rows < 0.6 + shift).astype(float)] * 3) for shift in (0.0, 0.08)]
    moved = [
        np.array([(rows < 0.6 + shift + seed).astype(float) for seed in (-0.12, 0.0, 0.12)]) for shift in (0.0, 0.08)
    ]
    p_values = []
    for tables in (quiet, moved):
        difference = tables[1].mean(axis=0) - tables[0].mean(axis=0)
        p_values.append(two_way_p(difference, pooled(tables), both_tuned=True))
    assert p_values[0] < 0.01 < 0.2 < p_values[1]


def test_consistency() -> None:
    """Rows that all seeds answer alike."""
    assert consistency([["a", "b", "c"], ["a", "x", "c"]]) == pytest.approx(2 / 3)
