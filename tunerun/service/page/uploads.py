"""A file of rows that a visitor uploads: parsed, shown, and converted into examples by two of its columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.dataset import Rows, SourceRow, read_content, with_conversations
from tunerun.dataset.formats import BINARY_MAGIC
from tunerun.errors import DatasetError
from tunerun.service.gemini import wire
from tunerun.template.json_text import to_json
from tunerun.tuning_guide import MOST_TRAINING_BYTES

MAX_FILE_BYTES = MOST_TRAINING_BYTES
SHOWN_ROWS = 10
SHOWN_COLUMNS = 30
SHOWN_CHARACTERS = 200
"""Characters shown of a cell: enough to recognise the columns."""

MAX_COLUMN_NAME = 60
"""Characters of a column's name; a longer one is more likely a cell of a file without a header."""

_WANTED = ("text_input", "output")


@dataclass(frozen=True)
class Table:
    """The content of a file.

    Attributes:
        columns: the names of all rows' columns, in the order in which they first appear; at least two.
        has_header: whether the first line of a CSV or TSV was read as its columns' names.
    """

    name: str
    rows: Rows
    columns: Sequence[str]
    has_header: bool = True

    @property
    def may_lack_a_header(self) -> bool:
        """Whether the line that names the columns looks like a row: a name is a number, a sentence, or a cell below."""
        return self.rows.has_header and any(
            _is_number(name) or len(name) > MAX_COLUMN_NAME or name.rstrip().endswith((".", "?", "!")) or name in cells
            for name, cells in self.rows.columns.items()
        )

    def head(self) -> list[list[str]]:
        """Return the cells of the first rows and columns, long ones cut off."""
        cells = [[cell_text(row, name) for name in self.columns[:SHOWN_COLUMNS]] for row in self.rows[:SHOWN_ROWS]]
        most = SHOWN_CHARACTERS
        return [[text if len(text) <= most else f"{text[:most]}…" for text in row] for row in cells]

    def likely(self) -> tuple[str, str]:
        """Guess the columns of input and output, by their names, else by their positions."""
        named = [name for name in _WANTED if name in self.columns]
        others = iter([name for name in self.columns if name not in named])
        first, second = (name if name in named else next(others) for name in _WANTED)
        return first, second

    def examples(self, text_input: str, output: str) -> list[wire.TuningExample]:
        """Return each row as an example, by the columns of input and output."""
        return [
            wire.TuningExample(text_input=cell_text(row, text_input), output=cell_text(row, output))
            for row in self.rows
        ]


def read_table(name: str, content: bytes, *, has_header: bool = True) -> Table:
    """Read a file of JSON, JSON lines, CSV or TSV; conversations of one question and one answer are examples too.

    Args:
        name: the name of the file; its ending decides the format.
        content: the content of the file.
        has_header: whether the first line of a CSV or TSV names the columns; otherwise it is a row.

    Raises:
        DatasetError: it is too large or invalid; each problem names the file and the line.
    """
    if len(content) > MAX_FILE_BYTES:
        raise DatasetError(f"{name}: is over the limit of {MAX_FILE_BYTES:,} bytes; send fewer examples")
    if content.startswith(BINARY_MAGIC):
        raise DatasetError(f"{name}: is Parquet or Arrow, which the page does not take; save it as JSON lines or CSV")
    rows, findings = with_conversations(read_content(name, content, None if has_header else ()), _WANTED)
    # The form makes pairs of an input and an output: what precedes the last turn would be dropped silently.
    for row in rows if rows.conversations is not None else ():
        if row.conversation is not None:
            what = "several turns" if row.conversation.earlier else "a system message"
            findings.add_row(
                "turns",
                row.line,
                f"has {what}, and this form takes one input and its output; tune it with `tunerun run`, or through "
                "the OpenAI wire (POST /v1/files)",
            )
    if findings:
        raise DatasetError(findings.lines(most=20))
    for row in rows:
        # JSON can escape half of a surrogate pair, which can be neither stored nor shown.
        try:
            json.dumps([*row.columns, *row.columns.values()], ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            words = f"{row.place}: contains an unpaired surrogate, such as \\ud800; fix or remove it"
            raise DatasetError(words) from error
    columns = tuple(rows.columns)
    if len(columns) < 2:
        raise DatasetError(f"{name}: has one column, {columns[0]!r}; an input and an output are needed")
    return Table(name, rows, columns, has_header)


def cell_text(row: SourceRow, column: str) -> str:
    """Return a cell as text, as a template prints it: a missing one is empty, a list or an object is JSON."""
    value: Any = row.columns.get(column)
    if isinstance(value, dict | list | bool):
        return to_json(value)
    return "" if value is None else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
