"""The comparison as a page: `report.html`, one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tunerun.comparison.table import ComparisonTable
from tunerun.errors import InputError
from tunerun.files import private_folder, replacing
from tunerun.ledger import Ledger

FILE = "report.html"

FOLDER = "reports"
"""Folder inside a runs folder in which `tunerun report` writes."""


def files(table: ComparisonTable, ledger: Ledger) -> Mapping[str, bytes]:
    """Return the file `report.html`."""
    return {FILE: page(table, ledger).encode()}


def write_page(table: ComparisonTable, ledger: Ledger, file: Path | None = None) -> Path:
    """Write the page into a file; an existing file is replaced as a whole.

    Args:
        file: the target; None: a file in `reports/` beside the ledger, named after the sweeps.

    Returns:
        The file that was written.

    Raises:
        InputError: the file cannot be written.
    """
    # The page is made before the folder: a comparison that fails leaves nothing behind.
    content = page(table, ledger).encode()
    target = file or ledger.path.parent / FOLDER / f"{'+'.join(sweep.id for sweep in table.verdict.sweeps)}.html"
    try:
        if file is None:
            private_folder(target.parent)  # answers to private rows are in it, as they are in the ledger
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as aside:
            aside.write_bytes(content)
    except OSError as error:
        raise InputError(f"{target}: {error.strerror}; choose a file that can be written with --output") from error
    return target


def page(table: ComparisonTable, ledger: Ledger) -> str:
    """Return the page of a comparison, with the answers and the curves of its ledger."""
    from tunerun.comparison.report import build, read_sources, render

    return render(build(table.verdict, read_sources(ledger, table.verdict)), table)
