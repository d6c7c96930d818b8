"""The comparison as CSV for spreadsheets and programs: plain numbers, and no cell that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from tunerun.comparison.table import ComparisonTable
from tunerun.job import Scalar
from tunerun.ledger import Ledger

FILE = "results.csv"

_FORMULA = ("=", "+", "-", "@", "\t", "\n")
"""Characters that begin a formula in a spreadsheet (OWASP, "CSV Injection", read 2026-11)."""


def render(table: ComparisonTable) -> str:
    """Write a row for each point, with rows of its trials below it where there are several, and for each baseline."""
    rows = []
    for row in table.rows:
        is_several = row.point is not None and len(table.verdict.points[row.point].trials) > 1
        rows += [row, *(table.trials_of(row) if is_several else ())]
    flat = table.flat(rows)
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([cell(key) for key in (flat[0] if flat else ())])
    writer.writerows([cell(value) for value in row.values()] for row in flat)
    return target.getvalue()


def files(table: ComparisonTable, _ledger: Ledger) -> Mapping[str, bytes]:
    """Return the file `results.csv`."""
    return {FILE: render(table).encode()}


def cell(value: Scalar) -> str:
    """Write a value as a cell: text that would be a formula has an apostrophe before it, which spreadsheets hide."""
    if value is None:
        return ""
    if isinstance(value, bool):  # as JSON and YAML, not Python, write it
        return "true" if value else "false"
    if isinstance(value, str):
        text = value.replace("\r\n", "\n").replace("\r", "\n")  # csv does not quote a lone carriage return
        return f"'{text}" if text.startswith(_FORMULA) else text
    return repr(value)
