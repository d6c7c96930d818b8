"""The tool's own decision over simulated sweeps whose truth is known; `make bench` runs far more of them."""

from __future__ import annotations

import pytest

from tests.comparison.worlds import World, null_worlds, simulated

MOST_BETTER, MOST_LEFT_OUT = 0.035, 0.06
"""Shares of null worlds in which the sentence may say "better", and in which a best point may be left out."""

DRAWS = 25


def _allowed(draws: int, share: float) -> int:
    """Return a count that independent draws exceed by chance in less than one of a thousand tests."""
    from scipy.stats import binom

    return int(binom.isf(0.001, draws, share))


@pytest.mark.slow
def test_null_worlds() -> None:
    """Where no point is better, "better" is said, and a best point left out, as rarely as the statistics promise.

    24 and 100 rows, 4 and 12 points, 1 and 3 baselines, with and without clusters, 1 and 3 seeds; by macro F1 too.
    """
    tallies = [simulated(world, DRAWS, seed, flips=300) for seed, world in enumerate(null_worlds())]
    tallies += [simulated(World(rows), 2 * DRAWS, rows, flips=300, by_labels=True) for rows in (24, 100)]
    draws = sum(tally.draws for tally in tallies)
    assert sum(tally.better for tally in tallies) <= _allowed(draws, MOST_BETTER)
    assert sum(tally.left_out for tally in tallies) <= _allowed(draws, MOST_LEFT_OUT)


@pytest.mark.slow
def test_worlds_with_a_better_point() -> None:
    """A point that is 50 points better is found nearly always, and is among those that are advised."""
    tally = simulated(World(rows=100, gains=(0.4, 0.0, 0.0, 0.0)), DRAWS, seed=5, flips=300)
    assert sum(tally.detected) / DRAWS > 0.9
    assert tally.left_out == 0
