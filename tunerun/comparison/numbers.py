"""How numbers are written for people: one format for the terminal, every file, MLflow and the sentences."""

from __future__ import annotations

import math

from tunerun.metrics import Unit

ROWS_FOR_A_DECIMAL = 200
"""Number of held-out rows from which a share is written with a decimal: with fewer, one row is more than 0.5 %."""

UNKNOWN = "-"
"""Written for a value that is not known."""

_LEAST_P = 0.0001
"""Below it a p value of 10,000 random flips has no digit left: the smallest that they can give is 0.00005."""

_MINUS = "-"


def measure(value: float | None, unit: Unit, rows: int = 0) -> str:
    """Write a value of a measure: a share as a percentage, anything else with three significant digits.

    Args:
        value: in its unit; None: not known, written as a dash.
        rows: number of held-out rows that it was measured on; 0: not known.
    """
    if value is None:
        return UNKNOWN
    return figure(value, unit, rows) + (" %" if unit is Unit.SHARE else "")


def figure(value: float, unit: Unit, rows: int = 0) -> str:
    """Write a value without the percent sign, for the ends of an interval and the values of a plot.

    Args:
        value, rows: as in `measure`; an infinite or undefined value is written as Python does.
    """
    if not math.isfinite(value):
        return str(value)
    if unit is Unit.SHARE:
        text = f"{100 * value:.{1 if rows >= ROWS_FOR_A_DECIMAL else 0}f}"
        return text.removeprefix(_MINUS) if not text.strip("-0.") else text  # never -0
    return digits(value)


def difference(value: float | None, unit: Unit, rows: int = 0) -> str:
    """Write a difference of two values with its sign: of shares in percentage points, without the word.

    Args:
        value, rows: as in `measure`.
    """
    if value is None:
        return UNKNOWN
    text = figure(value, unit, rows)
    return text if text.startswith(_MINUS) or text == "nan" else f"+{text}"


def interval(low: float | None, high: float | None, unit: Unit, rows: int = 0) -> str:
    """Write an interval as `27 to 68`; a dash where there is none.

    Args:
        low, high: both None where there is no interval.
        rows: as in `measure`.
    """
    if low is None or high is None:
        return UNKNOWN
    return f"{figure(low, unit, rows)} to {figure(high, unit, rows)}"


def loss(value: float | None) -> str:
    """Write a loss with three significant digits; a dash where it is not known."""
    return UNKNOWN if value is None else digits(value)


def p_value(value: float | None) -> str:
    """Write a p value as `0.0123`, or `< 0.0001`; a dash where nothing was tested."""
    if value is None:
        return UNKNOWN
    return f"< {_LEAST_P}" if value < _LEAST_P else f"{value:.4f}"


def digits(value: float) -> str:
    """Write a number with three significant digits, whole above a thousand: `0.00121`, `4.00`, `12,300`, `1.20e-05`."""
    # `#` keeps the zeros of 4.00: three digits are known. 999.5 would be rounded to 1,000, which is written whole.
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def spread(value: float, beside: str) -> str:
    """Write a standard deviation with as many decimals as the value that it belongs to.

    Args:
        beside: that value as it is written.
    """
    if "e" in beside or not math.isfinite(value):
        return f"{value:.2g}"
    return f"{value:,.{len(beside.partition('.')[2])}f}"


def counted(count: int, noun: str) -> str:
    """Write a count and its noun: `1 row`, `1,200 rows`."""
    return f"{count:,} {noun if count == 1 else f'{noun}s'}"
