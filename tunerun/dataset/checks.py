"""Rows become examples, and every row that cannot says why and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.dataset.conversations import with_conversations
from tunerun.dataset.rows import Findings, Rows, SourceRow, close_name, nearest
from tunerun.dataset.suggestion import advice_on_template
from tunerun.errors import TemplateError
from tunerun.job import Example
from tunerun.template import AbsentCellError, PromptTemplate
from tunerun.template.absent import is_null

GUIDE = "Gemini API model tuning guide, as last served 2025-04-28"
"""Source of the limits on characters (40,000 and 5,000 there) and of the advice in `advice.py`."""


PARTS = ("text_input", "output")
"""The two texts that a template makes of a row."""


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
    rows = with_conversations(rows, template.columns, findings)
    named_by = {column: f"template.{part}" for part in reversed(PARTS) for column in template.printed(part)}
    for column in sorted(named_by):
        require(rows, column, named_by[column], findings)
    absent = [column for column in named_by if column not in rows.columns]
    if absent and rows and not any(close_name(column, rows.columns) for column in absent):
        findings.add("template", f"{rows.file}: {advice_on_template(rows)}")
    usable = [row for row in rows if not _bad_cells(row, template, findings)]
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


def _bad_cells(row: SourceRow, template: PromptTemplate, findings: Findings) -> bool:
    """Whether a cell that the template prints is missing, null or not text; reports those that are there."""
    bad = False
    for part in PARTS:
        for column in template.printed(part):
            what = _complaint_about_cell(row.columns[column]) if column in row.columns else "is missing"
            bad = bad or what is not None
            if what and column in row.columns:
                _add_bad_cell(row, column, part, what, findings)
    return bad


def _add_bad_cell(row: SourceRow, column: str, part: str, what: str, findings: Findings) -> None:
    line = f"the cell of {column!r} {what}, and template.{part} uses it; fill it in as text"
    findings.add_row(what, row.place, line)


def _complaint_about_cell(cell: Any) -> str | None:
    if is_null(cell):
        return "is null"
    return "holds bytes" if isinstance(cell, bytes | bytearray) else None


def _rendered(row: SourceRow, template: PromptTemplate, findings: Findings) -> Iterator[RenderedRow]:
    try:
        yield RenderedRow(row, template.render(row.columns))
    except AbsentCellError as error:
        if error.is_null:
            _add_bad_cell(row, error.column, error.part, "is null", findings)
        else:
            wanted = _wanted(error.column, f"template.{error.part}", row)
            findings.add_row("column", row.place, f"the row has no column {wanted}")
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
