"""How numbers are written for people: one format for the terminal, every file, MLflow and the sentences."""

from __future__ import annotations

import math

from tunerun.metrics import Unit

ROWS_FOR_A_DECIMAL = 200
"""Held-out rows from which a share has a decimal: below, one row is half a percentage point or more."""

UNKNOWN = "-"
"""What is written for a value that is not known."""

_LEAST_P = 0.0001
_MINUS = "-"


def measure(value: float | None, unit: Unit, rows: int = 0) -> str:
    """A value of a measure: a share as a percentage, anything else with three significant digits.

    Args:
        rows: held-out rows that it was measured on; 0: not known.
    """
    if value is None:
        return UNKNOWN
    return f"{figure(value, unit, rows)} %" if unit is Unit.SHARE else figure(value, unit, rows)


def figure(value: float, unit: Unit, rows: int = 0) -> str:
    """The same without the percent sign, for the ends of an interval and the values of a plot."""
    if not math.isfinite(value):
        return str(value)
    if unit is Unit.SHARE:
        return _without_minus_zero(f"{100 * value:.{_decimals(rows)}f}")
    return digits(value)


def difference(value: float | None, unit: Unit, rows: int = 0) -> str:
    """A difference of two values with its sign: of shares in percentage points, without the word."""
    if value is None:
        return UNKNOWN
    text = figure(value, unit, rows)
    return text if text.startswith(_MINUS) or text == "nan" else f"+{text}"


def interval(low: float | None, high: float | None, unit: Unit, rows: int = 0) -> str:
    """An interval as `27 to 68`; a dash where there is none."""
    if low is None or high is None:
        return UNKNOWN
    return f"{figure(low, unit, rows)} to {figure(high, unit, rows)}"


def loss(value: float | None) -> str:
    """A loss with three significant digits; a dash where it is not known."""
    return UNKNOWN if value is None else digits(value)


def p_value(value: float | None) -> str:
    """A p value as `0.0123`, or `< 0.0001`; a dash where nothing was tested."""
    if value is None:
        return UNKNOWN
    return f"< {_LEAST_P}" if value < _LEAST_P else f"{value:.4f}"


def digits(value: float) -> str:
    """A number with three significant digits, whole from a thousand on: `0.00121`, `4.00`, `12,300`, `1.20e-05`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def spread(value: float, beside: str) -> str:
    """A standard deviation with as many decimals as the value that it belongs to has.

    Args:
        beside: that value as it is written.
    """
    if "e" in beside or not math.isfinite(value):
        return f"{value:.2g}"
    return f"{value:,.{len(beside.partition('.')[2])}f}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count and its noun: `1 row`, `1,200 rows`."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def _decimals(rows: int) -> int:
    return 1 if rows >= ROWS_FOR_A_DECIMAL else 0


def _without_minus_zero(text: str) -> str:
    return text.removeprefix(_MINUS) if not text.strip("-0.") else text
