"""Problems and warnings about the rows of a file, grouped by kind when they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MOST_OF_A_KIND = 5
"""Findings of one kind that are listed; the rest are counted. Ours: so that a screen holds several kinds."""


class UnreadableError(Exception):
    """A file gives no rows at all.

    Args:
        kind: as in `Findings.add`.
        line: for the user, with the file's name.
    """

    def __init__(self, kind: str, line: str) -> None:
        super().__init__(kind, line)
        self.kind = kind
        self.line = line


class _Entry(NamedTuple):
    kind: str
    line: str
    place: str | None
    """Of the row; None: it concerns the whole file."""
    is_warning: bool = False


class Findings:
    """Problems and warnings in the order in which they were found.

    A problem of the file stops everything; one of a row (`add_row`) is an error or costs that row alone, as
    `dataset.on_bad_row` says; a warning stops nothing. Ten thousand bad rows do not print ten thousand lines: of each
    kind the first few are shown, and the others counted.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def add(self, kind: str, line: str) -> None:
        """Add a problem of the file."""
        self._entries.append(_Entry(kind, line, None))

    def add_row(self, kind: str, place: str, what: str) -> None:
        """Add a problem of the row at `place`; the caller leaves the row out."""
        self._entries.append(_Entry(kind, f"{place}: {what}", place))

    def warn(self, kind: str, line: str) -> None:
        """Add a warning."""
        self._entries.append(_Entry(kind, line, None, is_warning=True))

    def extend(self, later: Findings) -> None:
        """Add the findings of a later stage."""
        self._entries += later._entries

    def __len__(self) -> int:
        return len(self._problems())

    def lines(self, most: int = MOST_OF_A_KIND) -> tuple[str, ...]:
        """Return the lines of all problems, by kind, in the order of each kind's first line.

        Args:
            most: of a kind; the last of them ends in "and n more like this" if there are more.
        """
        return tuple(_by_kind(self._problems(), most))

    def file_lines(self, most: int = MOST_OF_A_KIND) -> tuple[str, ...]:
        """Return the lines of problems of the whole file; `most` as in `lines`."""
        return tuple(_by_kind((each for each in self._problems() if each.place is None), most))

    def warnings(self, most: int = MOST_OF_A_KIND) -> tuple[str, ...]:
        """Return the lines of the warnings; `most` as in `lines`."""
        return tuple(_by_kind((each for each in self._entries if each.is_warning), most))

    def skipped(self, file: str, most: int = MOST_OF_A_KIND) -> tuple[str, ...]:
        """Return lines on how many rows were left out, and which; empty if all rows are good."""
        of_rows = [each for each in self._problems() if each.place is not None]
        count = len({each.place for each in of_rows})
        if not count:
            return ()
        rows = "1 row is" if count == 1 else f"{count:,} rows are"
        return (f"{file}: {rows} skipped (dataset.on_bad_row=skip)", *_by_kind(of_rows, most))

    def _problems(self) -> list[_Entry]:
        return [each for each in self._entries if not each.is_warning]


def _by_kind(entries: Iterable[_Entry], most: int) -> Iterator[str]:
    by_kind: dict[str, list[str]] = {}
    for entry in entries:
        by_kind.setdefault(entry.kind, []).append(entry.line)
    for lines in by_kind.values():
        *first, last = lines[:most]
        more = len(lines) - len(first) - 1
        yield from first
        yield f"{last} (and {more:,} more like this)" if more else last
