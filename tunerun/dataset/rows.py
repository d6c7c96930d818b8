"""The rows of a file, stored by column."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, Literal, overload

from tunerun.errors import close_name
from tunerun.examples import Conversation

_PART_OF_TURN = ("text_input", "output")

MOST_NAMES = 10
"""Column names that one line lists; the rest are counted. Ours."""


class _Absent(Enum):
    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent.ABSENT
"""The cell of a column that a row does not have (JSON rows may differ in their keys); null is None."""


@dataclass(frozen=True, slots=True)
class RowConversation:
    """The conversation of a row, as it was read.

    Attributes:
        conversation: the last message of the user and the messages before it.
        messages: for each turn, the last included, the places of its two messages in the row, such as `messages[1]`.
    """

    conversation: Conversation
    messages: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a file, before the template.

    Attributes:
        file: the path as it was given.
        line: where the row starts, from 1: a line of the text, or for Parquet the number of the row.
        columns: name of the column -> cell.
        counted_in: what `line` counts.
        conversation: the messages before the last input; None: the row has no system message and a single turn.
    """

    file: str
    line: int
    columns: Mapping[str, Any]
    counted_in: Literal["line", "row"] = "line"
    conversation: Conversation | None = None

    @property
    def place(self) -> str:
        """The row's place as errors name it: `train.csv:12`, or `train.parquet: row 12`."""
        return place_of(self.file, self.line, self.counted_in)


def place_of(file: str, line: int, counted_in: Literal["line", "row"] = "line") -> str:
    """Return a row's place for messages.

    Args:
        file: the path as it was given; empty: the row did not come from a file.
        line: where the row starts, from 1.
        counted_in: what `line` counts.
    """
    if not file:
        return f"row {line}"
    return f"{file}:{line}" if counted_in == "line" else f"{file}: row {line}"


@dataclass(frozen=True, eq=False, slots=True)
class Rows(Sequence[SourceRow]):
    """The rows of a file in their order.

    As a sequence it makes single rows on demand.

    Attributes:
        file: the path as it was given.
        lines: where each row starts; see `SourceRow.line`.
        columns: name -> the cells of all rows, `ABSENT` where a row does not have the column; in the order in which
            the columns first appear. A cell is a str, None, a bool, an int, a float (`WrittenNumber` where the file
            writes it differently from Python), a list or a dict of these, or what Parquet has besides (dates, bytes).
        counted_in: what `lines` counts.
        has_header: whether the names of the columns were read from the file's first line.
        conversations: of each row, or None for a row of one turn without a system message; None: no row has one.
    """

    # By column: a list for each column needs a third of the memory of a dict for each row, and a template or a check
    # can go through one column.
    file: str
    lines: Sequence[int]
    columns: Mapping[str, Sequence[Any]]
    counted_in: Literal["line", "row"] = "line"
    has_header: bool = False
    conversations: Sequence[RowConversation | None] | None = None

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> SourceRow: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> SourceRow | Rows:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        row_conversation = self._conversation(index)
        conversation = None if row_conversation is None else row_conversation.conversation
        return SourceRow(self.file, self.lines[index], self.cells(index), self.counted_in, conversation)

    def __iter__(self) -> Iterator[SourceRow]:
        return map(self.__getitem__, range(len(self)))

    def cells(self, index: int) -> dict[str, Any]:
        """Return the columns that a row has."""
        return {name: cell for name, cells in self.columns.items() if (cell := cells[index]) is not ABSENT}

    def place(self, index: int) -> str:
        """Return a row's place for messages."""
        return place_of(self.file, self.lines[index], self.counted_in)

    def message(self, index: int, part: str) -> str:
        """Return the message that a row's text_input or output is from, such as `messages[2]`; empty: not from one."""
        conversation = self._conversation(index)
        if conversation is None or part not in _PART_OF_TURN:
            return ""
        return conversation.messages[-1][_PART_OF_TURN.index(part)]

    def _conversation(self, index: int) -> RowConversation | None:
        return None if self.conversations is None else self.conversations[index]

    def take(self, positions: Sequence[int]) -> Rows:
        """Return the rows at these positions, in this order."""
        columns = {name: [cells[position] for position in positions] for name, cells in self.columns.items()}
        lines = array("q", (self.lines[position] for position in positions))
        conversations = None if self.conversations is None else [self.conversations[row] for row in positions]
        return replace(self, lines=lines, columns=columns, conversations=conversations)

    def with_columns(self, columns: Mapping[str, Sequence[Any]]) -> Rows:
        """Return the same rows with these columns added; a column of the same name is replaced."""
        return replace(self, columns={**self.columns, **columns})


class RowBuilder:
    """Collects rows that arrive one by one and may differ in their columns."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines = array("q")
        self._columns: dict[str, list[Any]] = {}

    def add(self, line: int, cells: Mapping[str, Any]) -> None:
        """Add a row that starts on `line`."""
        count = len(self._lines)
        self._lines.append(line)
        columns = self._columns
        for name, cell in cells.items():
            if name in columns:
                columns[name].append(cell)
            else:  # the rows before this one do not have the column
                columns[name] = [*[ABSENT] * count, cell]
        if len(cells) < len(columns):  # rows usually have the same keys, and need no second pass
            for column in columns.values():
                if len(column) == count:
                    column.append(ABSENT)

    @property
    def column_count(self) -> int:
        """How many distinct columns the rows so far have."""
        return len(self._columns)

    def rows(self) -> Rows:
        """Return the collected rows."""
        return Rows(self._file, self._lines, self._columns)


def first_few(texts: Sequence[str], most: int) -> str:
    """Return texts separated by commas: the first `most` of them, and the number of the others."""
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more:,} more" if more > 0 else "")


def listed(names: Iterable[str]) -> str:
    """Return column names, quoted and separated by commas, at most `MOST_NAMES` of them."""
    return first_few([repr(name) for name in names], MOST_NAMES)


def nearest(name: str, names: Collection[str]) -> str:
    """Return a hint for an error about an unknown name: the most similar of the names, else all of them."""
    close = close_name(name, names)
    return f"there are {listed(names) or 'none'}" if close is None else f"the nearest is {close!r}"
