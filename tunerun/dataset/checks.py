"""Render rows into examples, with a finding for every row that cannot be rendered or learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from types import NoneType
from typing import Any

from tunerun.dataset.characters import is_unicode
from tunerun.dataset.conversations import with_conversations
from tunerun.dataset.rendered_rows import PARTS, RenderedRows
from tunerun.dataset.rows import ABSENT, Findings, RowConversation, Rows, close_name, nearest
from tunerun.dataset.suggestion import advice_on_template
from tunerun.errors import TemplateError
from tunerun.job import Conversation, Turn
from tunerun.template import AbsentCellError, PrintedColumn, PromptTemplate
from tunerun.template.absent_cells import is_null
from tunerun.template.prompt_template import OUTPUT, SYSTEM, TEXT_INPUT, system_or_none

GUIDE = "Gemini API model tuning guide, as last served 2025-04-28"
"""Source of the limits on characters (40,000 and 5,000) and of the advice in `advice.py`."""


_INFINITIES = {"inf", "-inf"}


@dataclass(frozen=True)
class CharacterLimits:
    """The most characters of each text_input and of each output that the backend takes; None: any number.

    A system message has the limit of a text_input.
    """

    text_input: int | None
    output: int | None


def render_rows(rows: Rows, template: PromptTemplate, limits: CharacterLimits, findings: Findings) -> RenderedRows:
    """Return the rows that can be rendered into an example; the reasons for the others are added to `findings`.

    Args:
        rows: of one file.
        template: renders the rows, and names the columns they need.
        limits: of the backend.
        findings: where problems go.
    """
    read = list(rows.columns)
    rows = with_conversations(rows, template.columns, findings)
    bad = _without_cells(rows, template, findings)
    texts = {part: _texts(rows, part, template, bad, findings) for part in template.parts}
    systems = _systems(rows, texts.pop(SYSTEM, None), template)
    bad_before = set(bad)
    earlier = _earlier(rows, template, limits, bad_before, findings)
    _check_texts(rows, texts if systems is None else {SYSTEM: systems, **texts}, limits, bad, findings)
    bad |= bad_before
    good = [row for row in range(len(rows)) if row not in bad] if bad else range(len(rows))
    rendered = RenderedRows(rows, read, texts[TEXT_INPUT], texts[OUTPUT], template, systems, earlier)
    return rendered.take(good)


def _systems(rows: Rows, rendered: Sequence[str] | None, template: PromptTemplate) -> Sequence[str] | None:
    """Return the system message of each row, empty where it has none; None: no row has one."""
    if rendered is not None:
        rendered = [system_or_none(text) for text in rendered]
    elif rows.conversations is not None and template.sends_own_system:
        rendered = ["" if each is None else each.conversation.system for each in rows.conversations]
    return rendered if rendered is not None and any(rendered) else None


def _earlier(
    rows: Rows, template: PromptTemplate, limits: CharacterLimits, bad: set[int], findings: Findings
) -> Sequence[tuple[Turn, ...]] | None:
    """Return the turns before the last one of each row; a row with a bad turn is added to `bad`.

    All turns are rendered as the rows of one table, column by column, which is what makes it fast.
    """
    said = [() if each is None else each.conversation.earlier for each in rows.conversations or ()]
    owners = [row for row, turns in enumerate(said) for _ in turns]
    if not owners:
        return None
    try:
        template.check_turns()
    except TemplateError as error:
        for problem in error.problems:
            findings.add("template", f"{rows.file}: {problem}")
        return None
    turns = _table_of_turns(rows, owners)
    bad_turns = {number for number, row in enumerate(owners) if row in bad}
    texts = {part: _texts(turns, part, template, bad_turns, findings) for part in PARTS}
    _check_texts(turns, texts, limits, bad_turns, findings)
    bad.update(owners[number] for number in bad_turns)
    learned = (turn.is_learned for turns_of_row in said for turn in turns_of_row)
    rendered = map(Turn, texts[TEXT_INPUT], texts[OUTPUT], learned)
    return [tuple(islice(rendered, len(turns_of_row))) for turns_of_row in said]


def _table_of_turns(rows: Rows, owners: Sequence[int]) -> Rows:
    """Return the turns before the last ones as rows, each with the other columns of its own row."""
    found = [
        (turn, messages)
        for each in rows.conversations or ()
        if each is not None
        for turn, messages in zip(each.conversation.earlier, each.messages, strict=False)
    ]
    spoken = {TEXT_INPUT: [turn.text_input for turn, _ in found], OUTPUT: [turn.output for turn, _ in found]}
    places = [RowConversation(Conversation(turn.text_input), (messages,)) for turn, messages in found]
    return replace(rows.take(owners).with_columns(spoken), conversations=places)


def _without_cells(rows: Rows, template: PromptTemplate, findings: Findings) -> set[int]:
    """Report and return the rows that lack a cell which the template prints unconditionally."""
    parts = template.parts
    named_by = {column: part for part in reversed(parts) for column in template.printed(part)}
    bad: set[int] = set()
    for column in sorted(named_by):
        bad.update(require(rows, column, f"template.{named_by[column]}", findings))
    absent = [column for column in named_by if column not in rows.columns]
    is_typo = len(rows.columns) > 1 and any(close_name(column, rows.columns) for column in absent)
    if absent and len(rows) and not is_typo:
        findings.add("template", f"{rows.file}: {advice_on_template(rows)}")
    complaints = sorted(
        (row, parts.index(part), column, what)
        for column, part in named_by.items()
        for row, what in _bad_cells(rows.columns.get(column, ()))
    )
    for row, part_number, column, what in complaints:
        if row not in bad or rows.columns[column][row] is not ABSENT:
            _add_bad_cell(rows, row, column, parts[part_number], what, findings)
    return bad.union(row for row, *_ in complaints)


def require(rows: Rows, column: str, named_by: str, findings: Findings) -> Sequence[int]:
    """Report which rows lack a column: one line if all do, else one line each.

    Args:
        rows: of one file.
        column: the required one.
        named_by: the config's key that names it.
        findings: where problems go.

    Returns:
        The rows that lack it.
    """
    if column not in rows.columns:
        if len(rows):
            findings.add(
                "column", f"{rows.file}: no row has the column {_wanted(column, named_by, list(rows.columns))}"
            )
        return range(len(rows))
    lacking = [row for row, cell in enumerate(rows.columns[column]) if cell is ABSENT]
    for row in lacking:
        what = f"the row has no column {_wanted(column, named_by, list(rows.cells(row)))}"
        findings.add_row("column", rows.place(row), what)
    return lacking


def _wanted(column: str, named_by: str, names: Sequence[str]) -> str:
    return f"{column!r}, which {named_by} names; {nearest(column, names)}"


def _bad_cells(cells: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Yield the position of each row whose cell is null or not text, and what the cell is."""
    if set(map(type, cells)) - {str}:
        for row, cell in enumerate(cells):
            if cell is not ABSENT and (what := _complaint_about_cell(cell)):
                yield row, what


def _add_bad_cell(rows: Rows, row: int, column: str, part: str, what: str, findings: Findings) -> None:
    line = f"the cell of {column!r} {what}, and template.{part} uses it; fill it in as text"
    _add_row(rows, row, part, what, line, findings)


def _add_row(rows: Rows, row: int, part: str, kind: str, what: str, findings: Findings) -> None:
    """Add a problem of a row, with the place of the message in its conversation."""
    message = rows.message(row, part)
    findings.add_row(kind, rows.place(row), f"{message}: {what}" if message else what)


def _complaint_about_cell(cell: Any) -> str | None:
    if is_null(cell):
        return "is null"
    if isinstance(cell, float) and math.isinf(cell) and str(cell) in ("inf", "-inf"):  # not 1E400, kept as written
        return "is infinite"
    return "holds bytes" if isinstance(cell, bytes | bytearray) else None


def _texts(rows: Rows, part: str, template: PromptTemplate, bad: set[int], findings: Findings) -> Sequence[str]:
    """Render one part of every row; rows that cannot be rendered are added to `bad` and get an empty text."""
    segments = template.segments(part, rows.columns)
    if segments is not None:
        columns = [_printed(rows.columns[each.name]) if isinstance(each, PrintedColumn) else None for each in segments]
        if not any(
            cells is None and isinstance(each, PrintedColumn) for each, cells in zip(segments, columns, strict=True)
        ):
            return _joined(segments, columns, len(rows))
    return [_text(rows, row, part, template, bad, findings) for row in range(len(rows))]


def _printed(cells: Sequence[Any]) -> Sequence[str] | None:
    """Return the cells of a column as a template prints them; None: some cells need Jinja2's rendering."""
    types = set(map(type, cells))
    if types == {str}:
        return cells
    if not all(issubclass(each, str | int | float | bytes | NoneType) or each is type(ABSENT) for each in types):
        return None
    printed = [_printed_cell(cell) for cell in cells]
    return None if _INFINITIES & set(printed) and any(issubclass(each, float) for each in types) else printed


def _printed_cell(cell: Any) -> str:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return str(cell) if isinstance(cell, str | int | float) else ""  # a row without a cell was refused before


def _joined(
    segments: Sequence[str | PrintedColumn], columns: Sequence[Sequence[str] | None], count: int
) -> Sequence[str]:
    """Join the template's own text and whole columns of text, row by row."""
    if not segments:
        return [""] * count
    if len(segments) == 1 and columns[0] is not None:
        return columns[0]
    pieces = [repeat(each, count) if cells is None else cells for each, cells in zip(segments, columns, strict=True)]
    return ["".join(row) for row in zip(*pieces, strict=True)]


def _text(rows: Rows, row: int, part: str, template: PromptTemplate, bad: set[int], findings: Findings) -> str:
    if row in bad:
        return ""
    cells = rows.cells(row)
    try:
        return template.render_part(part, cells)
    except AbsentCellError as error:
        if error.is_null:
            _add_bad_cell(rows, row, error.column, error.part, "is null", findings)
        else:
            wanted = _wanted(error.column, f"template.{error.part}", list(cells))
            _add_row(rows, row, part, "column", f"the row has no column {wanted}", findings)
    except TemplateError as error:
        _add_row(rows, row, part, "template", f"{error}; correct the template, or this row", findings)
    bad.add(row)
    return ""


def _check_texts(
    rows: Rows, texts: dict[str, Sequence[str]], limits: CharacterLimits, bad: set[int], findings: Findings
) -> None:
    """Add the rows whose texts cannot be learned to `bad`, with a finding each."""
    most = {TEXT_INPUT: limits.text_input, OUTPUT: limits.output, SYSTEM: limits.text_input}
    doubtful = {row for part in texts for row in _doubtful(texts[part], most[part])} - bad
    for row in sorted(doubtful):
        complaints = [
            (part, kind, f"{part} {what}")
            for part in texts
            if part != SYSTEM or texts[part][row]
            for kind, what in _complaints(texts[part][row], most[part])
        ]
        for part, kind, complaint in complaints:
            _add_row(rows, row, part, kind, complaint, findings)
        if complaints:
            bad.add(row)


def _doubtful(texts: Sequence[str], limit: int | None) -> Iterator[int]:
    """Yield the positions of texts that may be bad: blank, too long, or not ASCII (which may hold a lone surrogate)."""
    for row, text in enumerate(texts):
        if not text.isascii() or not text.strip() or (limit is not None and len(text) > limit):
            yield row


def _complaints(text: str, limit: int | None) -> Iterator[tuple[str, str]]:
    if not text.strip():
        yield "blank", "is blank after the template; fill in the row or remove it"
    if limit is not None and len(text) > limit:
        yield "long", f"has {len(text):,} characters, the limit is {limit:,} ({GUIDE}); shorten it"
    if not is_unicode(text):
        yield "surrogate", "contains an unpaired surrogate (such as \\ud800 in JSON); fix the character or remove it"
