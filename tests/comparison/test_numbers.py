"""The one number format."""

from __future__ import annotations

import math

import pytest

from tunerun.comparison import numbers
from tunerun.metrics import Unit


@pytest.mark.parametrize(
    ("value", "unit", "rows", "text"),
    [
        (17 / 24, Unit.SHARE, 24, "71 %"),
        (0.5, Unit.SHARE, 199, "50 %"),
        (0.5014, Unit.SHARE, 200, "50.1 %"),
        (0.0, Unit.SHARE, 24, "0 %"),
        (None, Unit.SHARE, 24, "-"),
        (0.00121, Unit.NATS, 24, "0.00121"),
        (2.983, Unit.NATS, 0, "2.98"),
        (61.23, Unit.HUNDRED, 24, "61.2"),
        (4.0, Unit.HUNDRED, 24, "4.00"),
        (100.0, Unit.HUNDRED, 24, "100"),
        (12345.6, Unit.NUMBER, 24, "12,346"),
        (999.7, Unit.NUMBER, 24, "1,000"),
        (0.000012, Unit.NUMBER, 24, "1.20e-05"),
        (math.nan, Unit.NATS, 24, "nan"),
        (math.inf, Unit.NATS, 24, "inf"),
    ],
)
def test_a_measure_is_written_by_its_unit(value: float | None, unit: Unit, rows: int, text: str) -> None:
    """Shares are percentages, with a decimal from 200 rows on; all else has three significant digits."""
    assert numbers.measure(value, unit, rows) == text


@pytest.mark.parametrize(
    ("value", "unit", "rows", "text"),
    [
        (0.5, Unit.SHARE, 24, "+50"),
        (-0.125, Unit.SHARE, 24, "-12"),
        (-0.001, Unit.SHARE, 24, "+0"),
        (-0.034, Unit.SHARE, 500, "-3.4"),
        (0.0, Unit.NATS, 24, "+0"),
        (-0.41, Unit.NATS, 24, "-0.410"),
        (math.nan, Unit.NATS, 24, "nan"),
        (-math.inf, Unit.NATS, 24, "-inf"),
        (None, Unit.NATS, 24, "-"),
    ],
)
def test_a_difference_has_its_sign(value: float | None, unit: Unit, rows: int, text: str) -> None:
    """Differences of shares are percentage points; no difference is not a negative one."""
    assert numbers.difference(value, unit, rows) == text


def test_an_interval_has_both_ends() -> None:
    """Its ends are written as the value is, without the percent sign."""
    assert numbers.interval(0.268, 0.681, Unit.SHARE, 24) == "27 to 68"
    assert numbers.interval(-math.inf, math.inf, Unit.NATS) == "-inf to inf"
    assert numbers.interval(None, 0.2, Unit.SHARE) == "-"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "0.0123"), (0.0001, "0.0001"), (0.00009, "< 0.0001"), (0.0, "< 0.0001"), (1.0, "1.0000"), (None, "-")],
)
def test_a_p_value_has_four_decimals(value: float | None, text: str) -> None:
    """A value that is too small to show is written as smaller than the least."""
    assert numbers.p_value(value) == text


def test_a_count_has_its_noun() -> None:
    """One is singular; thousands are grouped."""
    assert [numbers.counted(n, "row") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]


def test_a_spread_has_the_decimals_of_its_value() -> None:
    """A spread can be compared with the value beside it."""
    assert numbers.spread(0.0204, "0.430") == "0.020"
    assert numbers.spread(2.04, "82") == "2"
    assert numbers.spread(0.0000004, "1.20e-05") == "4e-07"
