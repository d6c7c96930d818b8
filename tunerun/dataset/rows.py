"""What stands in a file of examples: rows, and what was found wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

MOST_OF_A_KIND = 5
"""Findings of one kind that are told one by one; the rest is counted. Ours: a screen holds several kinds."""

MOST_NAMES = 10
"""Column names that one line lists; the rest is counted."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a file, before the template.

    Attributes:
        file: the path as it was given.
        line: where the row starts, from 1: a line of the text, or for Parquet the number of the row.
        columns: name of the column -> cell.
        counted_in: what `line` counts.
    """

    file: str
    line: int
    columns: Mapping[str, Any]
    counted_in: Literal["line", "row"] = "line"

    @property
    def place(self) -> str:
        """The row's place as errors name it: `train.csv:12`, or `train.parquet: row 12`."""
        return f"{self.file}:{self.line}" if self.counted_in == "line" else f"{self.file}: row {self.line}"


class Findings:
    """Collects lines by kind, so that ten thousand bad rows do not print ten thousand lines.

    Args:
        most: lines of a kind that are kept.
    """

    def __init__(self, most: int = MOST_OF_A_KIND) -> None:
        self._most = most
        self._told: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, line: str) -> None:
        """Add a line; of one kind the first few are kept, the others counted."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        told = self._told.setdefault(kind, [])
        if len(told) < self._most:
            told.append(line)

    def __len__(self) -> int:
        return sum(self._counts.values())

    @property
    def lines(self) -> tuple[str, ...]:
        """Every kind in the order of its first line; each ends in "and n more like this" where lines were left out."""
        return tuple(line for kind in self._told for line in self._of(kind))

    def _of(self, kind: str) -> list[str]:
        *first, last = self._told[kind]
        more = self._counts[kind] - len(first) - 1
        return [*first, f"{last} (and {more:,} more like this)" if more else last]


def listed(names: Iterable[str]) -> str:
    """Return column names, quoted and separated by commas, at most `MOST_NAMES` of them."""
    quoted = [repr(name) for name in names]
    more = len(quoted) - MOST_NAMES
    return ", ".join(quoted[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def nearest(name: str, names: Collection[str]) -> str:
    """Return a hint that ends an error: the nearest of the right names, or all of them."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"the nearest is {close[0]!r}" if close else f"there are {listed(names) or 'none'}"
