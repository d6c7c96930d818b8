"""The comparison as a page: `report.html`, one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping

from tunerun.comparison.table import ComparisonTable
from tunerun.ledger import Ledger

FILE = "report.html"


def files(table: ComparisonTable, ledger: Ledger) -> Mapping[str, bytes]:
    """`report.html`."""
    return {FILE: page(table, ledger).encode()}


def page(table: ComparisonTable, ledger: Ledger) -> str:
    """The page of a comparison, with the answers and the curves of its ledger."""
    from tunerun.comparison.report import build, read_sources, render

    return render(build(table.verdict, read_sources(ledger, table.verdict)), table)
