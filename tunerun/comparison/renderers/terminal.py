"""The comparison as a table in a terminal, as wide as that is; the last line is the sentence."""

from __future__ import annotations

import io
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tunerun.comparison.columns import ColumnKind
from tunerun.comparison.table import ComparisonTable, Row, RowKind

MAX_POINTS = 60
"""Maximum number of points in the table; the best are shown."""

PLAIN_WIDTH = 160
"""Width in characters of a table that is made as text, without a terminal."""

MOST_UNBROKEN = 24
"""Maximum length of a cell that is kept on one line: the longest interval has about twenty characters, and a text that
an axis sets may have pages."""

MOST_UNBROKEN_WORDS = 14
"""The same for a cell of words, such as `flat after 4`."""

_STYLES = {"SUCCEEDED": "green", "FAILED": "red", "CANCELLED": "yellow"}


def render(table: ComparisonTable) -> str:
    """Return the table, its legend, its notes and its sentence, without colours."""
    target = io.StringIO()
    console = Console(file=target, width=PLAIN_WIDTH, highlight=False, soft_wrap=True, color_system=None)
    print_table(table, console)
    print_words(table, console)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines())


def print_table(table: ComparisonTable, console: Console) -> None:
    """Print the table and what its marks mean.

    Columns that are least needed are left out where the terminal is too narrow, and named. Where the others do not fit
    either, each row is a paragraph.
    """
    best = table.best(MAX_POINTS)
    fitting: ComparisonTable | None = best
    while fitting is not None and _Widths.of(fitting).least > console.width:
        # One column at a time, the last of the highest rank: the table keeps as much as fits.
        rank = max(column.rank for column in fitting.columns)
        last = [column.key for column in fitting.columns if column.rank == rank][-1:]
        fitting = fitting.without(last) if rank else None

    if fitting is None:
        _print_paragraphs(best, console)
    else:
        console.print(_table(fitting, console.width))
        dropped = [column.title for column in best.columns if column not in fitting.columns]
        if dropped:
            console.print(_words(f"Not shown at this width: {', '.join(dropped)}."))
    if best.left_out:
        console.print(f"The best {MAX_POINTS} of {MAX_POINTS + best.left_out:,} points; --json has all of them.")
    if best.legend:
        console.print(_words(" ".join(best.legend), "dim"))


def print_words(table: ComparisonTable, console: Console) -> None:
    """Print the notes, and the sentence last."""
    for line in (*table.verdict.notes, table.sentence):
        console.print(_words(line))


@dataclass(frozen=True)
class _Widths:
    """The width that each column needs and would like, in characters.

    A number, its sign and its interval stay on one line, and words stay whole.
    """

    # rich would shrink the widest column first and cut numbers.

    needed: list[int]
    liked: list[int]

    @classmethod
    def of(cls, table: ComparisonTable) -> _Widths:
        rows = [_cells(table, row) for row in table.rows]
        needed, liked = [], []
        for place, column in enumerate(table.columns):
            cells = [row[place] for row in rows]
            unbroken = MOST_UNBROKEN_WORDS if column.kind.is_text else MOST_UNBROKEN
            whole = (max(min(cell.cell_len, unbroken), _word_width(cell.plain)) for cell in cells)
            needed.append(max([_word_width(column.title), *whole]))
            liked.append(max([cell_len(column.title), *(cell.cell_len for cell in cells)]))
        return cls(needed, liked)

    @property
    def least(self) -> int:
        """Of the whole table: a space and a rule's width between two columns, and at both ends."""
        return sum(self.needed) + 2 * len(self.needed)

    def within(self, width: int) -> list[int]:
        """A width for each column, so that the table is no wider than this."""
        # What is left over goes to the first columns, which are read first.
        room = width - self.least
        widths = list(self.needed)
        for place, liked in enumerate(self.liked):
            more = min(max(0, room), liked - widths[place])
            widths[place] += more
            room -= more
        return widths


def _table(table: ComparisonTable, width: int) -> Table:
    made = Table(
        title=_words(table.title, "italic"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    widths = _Widths.of(table).within(width)
    for column, wide in zip(table.columns, widths, strict=True):
        is_left = column.kind.is_text or column.kind is ColumnKind.LABEL
        justify: JustifyMethod = "left" if is_left else "right"
        made.add_column(_words(column.title), justify=justify, width=wide, overflow="fold")
    for position, row in enumerate(table.rows):
        if position and table.rows[position - 1].kind is not row.kind:
            made.add_section()
        made.add_row(*_cells(table, row), style="bold" if row.is_advised else None)
    return made


def _words(text: str, style: str = "") -> Text:
    """Return text from outside without markup, and with control characters made visible."""
    # An escape sequence in a swept text or an answer could move the cursor or hide a line.
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), style=style)


def _word_width(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _cells(table: ComparisonTable, row: Row) -> list[Text]:
    cells = []
    for column in table.columns:
        text = table.text(row, column)
        style = _STYLES.get(text.partition(" ")[0], "") if column.key == "state" else ""
        cells.append(_words(text, style))
    # A mark or a space before every point, so that their numbers are below each other.
    if row.kind is not RowKind.BASELINE:
        cells[0] = _words(f"{row.mark or ' '} {cells[0]}")
    return cells


def _print_paragraphs(table: ComparisonTable, console: Console) -> None:
    """Each row as lines of `head: cell`, below the first cell."""
    console.print(_words(table.title))
    for row in table.rows:
        lines = [(column.title, text) for column, text in zip(table.columns, table.texts(row), strict=True) if text]
        for position, (head, text) in enumerate(lines):
            mark = f"{row.mark} " if row.mark and not position else ""
            padded = Padding(_words(f"{head}: {mark}{text}"), (0, 0, 0, 2 if position else 0), expand=False)
            console.print(padded, soft_wrap=False)
