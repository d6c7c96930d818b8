"""Intervals, against published and recomputed values."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunerun.statistics import critical_value, score_interval, tango, wilson

TANGO_95 = {
    (17, 0, 24): (0.4726, 0.8509), (5, 3, 24): (-0.1604, 0.3199), (0, 0, 24): (-0.1380, 0.1380),
    (24, 0, 24): (0.7240, 1.0), (1, 0, 24): (-0.1021, 0.2024), (12, 12, 24): (-0.3715, 0.3715),
    (1, 7, 21): (-0.5172, -0.0260), (40, 20, 160): (0.0309, 0.2181), (30, 10, 300): (0.0266, 0.1103),
    (0, 0, 1): (-0.7935, 0.7935),
}  # fmt: skip
TANGO_90 = {(17, 0, 24): (0.5353, 0.8334), (5, 3, 24): (-0.1183, 0.2810), (0, 0, 24): (-0.1013, 0.1013)}
CASES = [*((0.05, *case) for case in TANGO_95.items()), *((0.10, *case) for case in TANGO_90.items())]


@pytest.mark.parametrize(("alpha", "pair", "limits"), CASES)
def test_tango(alpha: float, pair: tuple[int, int, int], limits: tuple[float, float]) -> None:
    """It gives known values to four digits, and mirrored ones where the models change places."""
    wins, losses, rows = pair
    z = critical_value(alpha)
    assert tango(wins, losses, rows, z) == pytest.approx(limits, abs=5e-5)
    low, high = tango(losses, wins, rows, z)
    assert (-high, -low) == pytest.approx(limits, abs=5e-5)


def test_tango_has_a_closed_form_at_the_edges() -> None:
    """Without a discordant row it is z2 / (n + z2); where all are won it begins at (n - z2) / (n + z2)."""
    z2 = critical_value(0.05) ** 2
    assert tango(0, 0, 50, z2**0.5)[1] == pytest.approx(z2 / (50 + z2))
    assert tango(50, 0, 50, z2**0.5)[0] == pytest.approx((50 - z2) / (50 + z2))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.floats(0.5, 4))
def test_tango_contains_the_observed_difference(wins: int, losses: int, both: int, z: float) -> None:
    """This holds for any table and critical value, within -1 and 1."""
    rows = wins + losses + both
    if rows == 0:
        return
    low, high = tango(wins, losses, rows, z)
    assert -1 <= low <= (wins - losses) / rows + 1e-9
    assert (wins - losses) / rows - 1e-9 <= high <= 1


def test_wilson() -> None:
    """It gives known values for 15 of 24 rows, and for none and all."""
    assert wilson(15 / 24, 24) == pytest.approx((0.4271, 0.7884), abs=1e-3)
    assert wilson(0.0, 24)[0] == 0
    assert wilson(1.0, 24)[1] == pytest.approx(1)


def test_the_score_interval_excludes_zero_exactly_when_the_statistic_is_above_its_critical_value() -> None:
    """The statistic is that of the flip test: the sum divided by the root of the sum of squares."""
    rows, deviation = 24, 0.3
    z = 2.5
    # |sum d| / sqrt(sum d^2) = z at this mean, as sum d^2 = rows * (deviation^2 + mean^2).
    ratio = z / rows**0.5
    mean = deviation * ratio / (1 - ratio**2) ** 0.5
    assert score_interval(mean * 1.001, deviation, rows, z)[0] > 0
    assert score_interval(mean * 0.999, deviation, rows, z)[0] < 0
    assert score_interval(0.1, 0.2, 4, 2.5) == (-inf, inf)
