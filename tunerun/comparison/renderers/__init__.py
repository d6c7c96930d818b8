"""The ways to show a comparison, one file each: a new one is a module here and its name in the list below."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from tunerun.errors import InputError

if TYPE_CHECKING:
    from tunerun.comparison.table import ComparisonTable
    from tunerun.ledger import Ledger


class Renderer(Protocol):
    """A module that turns a table into text. It decides nothing, and the same table gives the same text."""

    def render(self, table: ComparisonTable) -> str:
        """Return the whole table, with its sentence where the kind of text has a place for it."""


class FileRenderer(Protocol):
    """A module that writes files of `compare --output`.

    What it writes can be published: it names no machine's folder, no run id of a tracking server, and no date but those
    of the record, so that the same ledger gives the same bytes.
    """

    def files(self, table: ComparisonTable, ledger: Ledger) -> Mapping[str, bytes]:
        """Return contents by the name of the file; none where there is nothing to write."""


RENDERERS = {
    "csv": "table_csv",
    "html": "html",
    "json": "document",
    "latex": "latex",
    "markdown": "markdown",
    "note": "note",
    "terminal": "terminal",
}
"""Name of a kind of text -> its module; imported when it is used."""

FILE_RENDERERS = ("document", "markdown", "table_csv", "latex", "plots", "report")
"""Modules that write files, in the order in which they are written."""


def renderer(name: str) -> Renderer:
    """Return a renderer by its name.

    Raises:
        InputError: no renderer has that name; lists the names.
    """
    if name not in RENDERERS:
        raise InputError(f"no renderer {name!r}; choose one of {', '.join(RENDERERS)}")
    return cast(Renderer, import_module(f"{__name__}.{RENDERERS[name]}"))


def file_contents(table: ComparisonTable, ledger: Ledger) -> dict[str, bytes]:
    """Return the content of every file of a comparison by its name, in the order in which they are written."""
    contents: dict[str, bytes] = {}
    for module in FILE_RENDERERS:
        contents |= cast(FileRenderer, import_module(f"{__name__}.{module}")).files(table, ledger)
    return contents


def write_files(table: ComparisonTable, ledger: Ledger, folder: Path) -> list[Path]:
    """Write every file of a comparison into a folder, which is made where it is missing.

    Returns:
        The files that were written.

    Raises:
        InputError: the folder cannot be written.
    """
    contents = file_contents(table, ledger)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; choose a folder that can be written") from error
    return [folder / name for name in contents]
