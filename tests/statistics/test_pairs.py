"""McNemar's tests and Holm's correction, against known values."""

from __future__ import annotations

import pytest

from tunerun.statistics import holm, mid_p

MID_P = {
    (0, 0): 1, (1, 0): 0.5, (5, 0): 0.03125, (6, 0): 0.015625, (7, 1): 0.0390625, (5, 3): 0.5078125,
    (4, 2): 0.453125, (3, 3): 1, (17, 0): 2**-17,
}  # fmt: skip


@pytest.mark.parametrize(("pair", "p"), MID_P.items())
def test_mid_p(pair: tuple[int, int], p: float) -> None:
    """P values are exact fractions, the same in both directions."""
    assert mid_p(*pair) == mid_p(*reversed(pair)) == p


def test_holm_keeps_the_order_and_the_ranks() -> None:
    """The smallest p is multiplied by the number of tests, the next by one less; none is below the one before."""
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
