"""The comparison as the note of an MLflow experiment or run.

MLflow 3.17 shows the first lines where the note is folded, and renders no tables in an experiment's note: the sentence
comes first, and the points are a list. A heading would be cut: it has room for one line of 90 characters there.
"""

from __future__ import annotations

from tunerun import markdown
from tunerun.comparison import labels
from tunerun.comparison.columns import ColumnKind
from tunerun.comparison.table import ComparisonTable

MAX_POINTS = 20
MOST_RANK = 3
"""Largest rank of a column that is named: the validation loss is, the training loss and seconds are not."""

MAX_CHARACTERS = 7_000
"""A note of a run is cut after 8,000 characters; what a caller puts before and after it needs some."""


def render(table: ComparisonTable) -> str:
    """Write the sentence, a line for each of the best points and each baseline, and the notes."""
    best = table.best(MAX_POINTS)
    lines = [f"**{escaped(best.sentence)}**", ""]
    for row in best.rows:
        overrides = {} if row.point is None else best.verdict.points[row.point].overrides
        name = f"point {row.point}" if row.point is not None else str(row.cells["point"])
        head = f"**{escaped(name)}**" if row.is_advised else escaped(name)
        measures = [
            f"{column.title} {best.text(row, column)}"
            for column in best.columns
            if column.key in row.cells and row.cells[column.key] is not None and column.rank <= MOST_RANK
            if column.kind in (ColumnKind.MEASURE, ColumnKind.DIFFERENCE, ColumnKind.P)
        ]
        state = next((best.text(row, c) for c in best.columns if c.key == "state" and row.point is not None), "")
        details = "; ".join(escaped(part) for part in (labels.label(overrides), state, *measures) if part)
        lines.append(f"- {head}: {details}" if details else f"- {head}")
    if best.left_out:
        lines.append(f"- ... and {best.left_out:,} more points")
    lines += [line for note in best.verdict.notes for line in ("", escaped(note))]
    text = "\n".join(lines)
    # Cut at a whole line: half of a Markdown mark would change what follows it.
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 4].rpartition("\n")[0] + "\n..."


def escaped(text: str) -> str:
    """Escape text from outside for MLflow, whose page would show the backslash of an escaped `<`."""
    return markdown.escaped(text).replace("\\<", "&lt;")
