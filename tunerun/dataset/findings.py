"""Problems and warnings about the rows of a file, grouped by kind when they are shown."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Literal, NamedTuple

from tunerun.dataset.rows import place_of

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
    text: str
    is_of_row: bool = False
    is_warning: bool = False


def _costs_row(entry: _Entry) -> bool:
    return entry.is_of_row and not entry.is_warning


class Findings:
    """Problems and warnings of a file in the order in which they were found.

    A problem of the file stops everything; one of a row (`add_row`) is an error or costs that row alone, as
    `dataset.on_bad_row` says; a warning stops nothing. Ten thousand bad rows do not print ten thousand lines: of each
    kind the first few are shown, and the others counted.

    Args:
        file: the path as it was given, for the places of rows.
        counted_in: what the lines of rows count; see `SourceRow.line`.
    """

    # Bad rows nearly always share a few texts, so a row costs its line and a reference, 16 bytes: a text of its own for
    # each took 340 bytes (measured with 1,000,000 bad rows, 2026-11-26). All are kept, because `data check --all`
    # prints them.

    def __init__(self, file: str = "", counted_in: Literal["line", "row"] = "line") -> None:
        self._file = file
        self._counted_in: Literal["line", "row"] = counted_in
        self._entries: list[_Entry] = []
        self._lines = array("q")  # of each entry's row; 0 for one of the file
        self._shared: dict[_Entry, _Entry] = {}

    def add(self, kind: str, line: str) -> None:
        """Add a problem of the file.

        Args:
            kind: a name for problems that are shown together.
            line: for the user, with the file's name.
        """
        self._add(_Entry(kind, line))

    def add_row(self, kind: str, line: int, what: str) -> None:
        """Add a problem of a row; the caller leaves the row out.

        Args:
            kind: as in `add`.
            line: where the row starts.
            what: for the user, without the row's place.
        """
        self._add(_Entry(kind, what, is_of_row=True), line)

    def warn(self, kind: str, line: str) -> None:
        """Add a warning; arguments as in `add`."""
        self._add(_Entry(kind, line, is_warning=True))

    def warn_row(self, kind: str, line: int, what: str) -> None:
        """Add a warning about a row, which is kept; arguments as in `add_row`."""
        self._add(_Entry(kind, what, is_of_row=True, is_warning=True), line)

    def _add(self, entry: _Entry, line: int = 0) -> None:
        self._entries.append(self._shared.setdefault(entry, entry))
        self._lines.append(line)

    def extend(self, later: Findings) -> None:
        """Add the findings of a later stage on the same file."""
        self._entries += later._entries
        self._lines += later._lines

    def __len__(self) -> int:
        return sum(not entry.is_warning for entry in self._entries)

    def lines(self, most: int = MOST_OF_A_KIND) -> tuple[str, ...]:
        """Return the lines of all problems, by kind, in the order of each kind's first line.

        Args:
            most: of a kind; the last of them ends in "and n more like this" if there are more.
        """
        return self._by_kind(lambda entry: not entry.is_warning, most)

    def file_lines(self, most: int = MOST_OF_A_KIND) -> tuple[str, ...]:
        """Return the lines of problems of the whole file; `most` as in `lines`."""
        return self._by_kind(lambda entry: not entry.is_warning and not entry.is_of_row, most)

    def warnings(self, most: int = MOST_OF_A_KIND) -> tuple[str, ...]:
        """Return the lines of the warnings; `most` as in `lines`."""
        return self._by_kind(lambda entry: entry.is_warning, most)

    def skipped(self, most: int = MOST_OF_A_KIND) -> tuple[str, ...]:
        """Return lines on how many rows were left out, and which; empty if all rows are good."""
        entries = zip(self._entries, self._lines, strict=True)
        count = len({line for entry, line in entries if _costs_row(entry)})  # a row may have several problems
        if not count:
            return ()
        rows = "1 row is" if count == 1 else f"{count:,} rows are"
        first = f"{self._file}: {rows} skipped (dataset.on_bad_row=skip)"
        return (first, *self._by_kind(_costs_row, most))

    def _by_kind(self, is_wanted: Callable[[_Entry], bool], most: int) -> tuple[str, ...]:
        shown: dict[str, list[str]] = {}
        counts: Counter[str] = Counter()
        for entry, line in zip(self._entries, self._lines, strict=True):
            if not is_wanted(entry):
                continue
            counts[entry.kind] += 1
            if counts[entry.kind] <= most:
                place = f"{place_of(self._file, line, self._counted_in)}: " if entry.is_of_row else ""
                shown.setdefault(entry.kind, []).append(f"{place}{entry.text}")
        return tuple(chain.from_iterable(with_count(lines, counts[kind]) for kind, lines in shown.items()))


def with_count(lines: Sequence[str], count: int) -> Sequence[str]:
    """Return the first lines of a kind; the last of them says how many of the `count` lines are not shown."""
    more = count - len(lines)
    return [*lines[:-1], f"{lines[-1]} (and {more:,} more like this)"] if more else lines
