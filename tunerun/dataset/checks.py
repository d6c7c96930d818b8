"""Rows become examples, and every row that cannot says why and where."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.dataset.conversations import with_conversations
from tunerun.dataset.rows import Findings, Rows, SourceRow, nearest
from tunerun.errors import TemplateError
from tunerun.job import Example
from tunerun.template import PromptTemplate

GUIDE = "Gemini API model tuning guide, as last served 2025-04-28"
"""Source of the limits on characters (40,000 and 5,000 there) and of the advice in `advice.py`."""


@dataclass(frozen=True)
class CharacterLimits:
    """The most characters of a text_input and of an output that the backend takes; None: any number."""

    text_input: int | None
    output: int | None


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A row and the example that the template makes of it."""

    row: SourceRow
    example: Example


def render_rows(rows: Rows, template: PromptTemplate, limits: CharacterLimits, findings: Findings) -> list[RenderedRow]:
    """Return the rows that make an example; why the others do not is added to `findings`.

    Args:
        rows: of one file.
        template: says which columns are needed.
        limits: of the backend.
        findings: where problems go.
    """
    part_of = dict.fromkeys(template.columns, "template.output") | dict.fromkeys(
        template.input_columns, "template.text_input"
    )
    rows = with_conversations(rows, template.columns, findings)
    for column in sorted(part_of):
        require(rows, column, part_of[column], findings)
    complete = [row for row in rows if part_of.keys() <= row.columns.keys()]
    usable = [row for row in complete if not _bad_cells(row, part_of, findings)]
    rendered = [each for row in usable for each in _rendered(row, template, findings)]
    return [each for each in rendered if not _bad_texts(each, limits, findings)]


def require(rows: Sequence[SourceRow], column: str, named_by: str, findings: Findings) -> None:
    """Say which rows lack a column: one line if all do, else one line each.

    Args:
        rows: of one file.
        column: the one that is needed.
        named_by: the config's key that names it.
        findings: where problems go.
    """
    lacking = [row for row in rows if column not in row.columns]
    if rows and len(lacking) == len(rows):
        findings.add("column", f"{rows[0].file}: no row has the column {_wanted(column, named_by, rows[0])}")
        return
    for row in lacking:
        findings.add_row("column", row.place, f"the row has no column {_wanted(column, named_by, row)}")


def _wanted(column: str, named_by: str, row: SourceRow) -> str:
    return f"{column!r}, which {named_by} names; {nearest(column, row.columns)}"


def _bad_cells(row: SourceRow, part_of: dict[str, str], findings: Findings) -> bool:
    """Whether a cell that the template uses is null or no text; says so."""
    bad = False
    for column, part in part_of.items():
        what = _complaint_about_cell(row.columns[column])
        if what:
            bad = True
            findings.add_row(what, row.place, f"the cell of {column!r} {what}, and {part} uses it; fill it in as text")
    return bad


def _complaint_about_cell(cell: Any) -> str | None:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):  # NaN is how tables write null
        return "is null"
    return "holds bytes" if isinstance(cell, bytes | bytearray) else None


def _rendered(row: SourceRow, template: PromptTemplate, findings: Findings) -> Iterator[RenderedRow]:
    try:
        yield RenderedRow(row, template.render(row.columns))
    except TemplateError as error:
        findings.add_row("template", row.place, f"{error}; correct the template, or this row")


def _bad_texts(rendered: RenderedRow, limits: CharacterLimits, findings: Findings) -> bool:
    """Whether the example's texts cannot be learned; says so."""
    parts = (
        ("text_input", rendered.example.text_input, limits.text_input),
        ("output", rendered.example.output, limits.output),
    )
    complaints = [
        (kind, f"{name} {what}") for name, text, limit in parts for kind, what in _complaints_about_text(text, limit)
    ]
    for kind, complaint in complaints:
        findings.add_row(kind, rendered.row.place, complaint)
    return bool(complaints)


def _complaints_about_text(text: str, limit: int | None) -> Iterator[tuple[str, str]]:
    if not text.strip():
        yield "blank", "is blank after the template; fill in the row or remove it"
    if limit is not None and len(text) > limit:
        yield "long", f"has {len(text):,} characters, the limit is {limit:,} ({GUIDE}); shorten it"
    if not _is_unicode(text):
        yield "surrogate", "holds half a character (a lone surrogate, as \\ud800 in JSON); write the whole one"


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
