"""The comparison as an HTML fragment without script or style: what a notebook shows, and a part of the report."""

from __future__ import annotations

from html import escape

from tunerun.comparison.table import ComparisonTable, Row, RowKind

MAX_POINTS = 60
"""Points in the fragment that a notebook shows; the best of more."""


def render(table: ComparisonTable) -> str:
    """Return the table with title, legend and sentence, in one element of the class `tunerun-comparison`."""
    best = table.best(MAX_POINTS)
    left_out = f"<p>The best {MAX_POINTS} of {MAX_POINTS + best.left_out:,} points.</p>" if best.left_out else ""
    return (
        '<div class="tunerun-comparison">'
        f"{fragment(best)}{left_out}"
        f"<p><small>{escape(' '.join(best.legend))}</small></p>"
        f"<p><strong>{escape(best.sentence)}</strong></p></div>"
    )


def fragment(table: ComparisonTable) -> str:
    """Return the `table` element alone; rows have the classes `point` or `baseline`, and `advised` and `tied`."""
    head = "".join(
        f'<th scope="col" title="{escape(column.key)}">{escape(column.title)}</th>' for column in table.columns
    )
    bodies = []
    for kind in (RowKind.POINT, RowKind.BASELINE):
        rows = [_row(table, row) for row in table.rows if row.kind is kind]
        if rows:
            bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    return f"<table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>{''.join(bodies)}</table>"


def _row(table: ComparisonTable, row: Row) -> str:
    classes = [row.kind.value, *(["advised"] * row.is_advised), *(["tied"] * row.is_tied)]
    cells = []
    for column, text in zip(table.columns, table.texts(row), strict=True):
        cell = escape(text)
        if column is table.columns[0]:
            cell = f"<strong>{row.mark} {cell}</strong>" if row.is_advised else f"{row.mark} {cell}".strip()
            cells.append(f'<th scope="row">{cell}</th>')
        else:
            # The attribute and not a style: the report's content security policy allows no inline style.
            align = "left" if column.kind.is_text else "right"
            cells.append(f'<td align="{align}">{cell}</td>')
    return f'<tr class="{" ".join(classes)}">{"".join(cells)}</tr>'
