"""Renders rows into examples, with a finding for every row that cannot be rendered or learned."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import NoneType
from typing import Any

from tunerun.dataset.characters import is_unicode
from tunerun.dataset.conversations import with_conversations
from tunerun.dataset.findings import Findings
from tunerun.dataset.rendered_rows import PARTS, RenderedRows
from tunerun.dataset.rows import ABSENT, RowConversation, Rows, nearest
from tunerun.dataset.suggestion import advice_on_template
from tunerun.errors import TemplateError, close_name
from tunerun.examples import Conversation, Turn
from tunerun.template import AbsentCellError, PrintedColumn, PromptTemplate
from tunerun.template.absent_cells import is_null
from tunerun.template.prompt_template import OUTPUT, SYSTEM, TEXT_INPUT, system_or_none
from tunerun.tuning_guide import GUIDE

_INFINITIES = {"inf", "-inf"}


@dataclass(frozen=True)
class CharacterLimits:
    """The most characters of each text_input and of each output that the backend takes; None: any number.

    A system message has the limit of a text_input.
    """

    text_input: int | None
    output: int | None


def render_rows(rows: Rows, template: PromptTemplate, limits: CharacterLimits) -> tuple[RenderedRows, Findings]:
    """Return the rows that can be rendered into an example, and findings on the others.

    Args:
        rows: of one file.
        template: renders the rows, and names the columns they need.
        limits: of the backend.
    """
    read = list(rows.columns)
    rows, findings = with_conversations(rows, template.columns)
    table = _Table(rows, template, limits, findings)
    table.check_cells()
    texts = {part: table.texts(part) for part in template.parts}

    # `template.system` takes precedence over the message of the row's own conversation, which is sent unchanged.
    systems: Sequence[str] | None = None
    if SYSTEM in texts:
        systems = [system_or_none(text) for text in texts.pop(SYSTEM)]
    elif rows.conversations is not None and template.sends_own_system:
        systems = ["" if each is None else each.conversation.system for each in rows.conversations]
    if systems is not None and not any(systems):
        systems = None

    # A row whose earlier turn is bad is left out too, but the texts of its last turn are checked all the same.
    earlier, rows_of_bad_turns = _earlier(table)
    table.check_texts(texts if systems is None else {SYSTEM: systems, **texts})

    bad = table.bad | rows_of_bad_turns
    good = [row for row in range(len(rows)) if row not in bad] if bad else range(len(rows))
    rendered = RenderedRows(rows, read, texts[TEXT_INPUT], texts[OUTPUT], template, systems, earlier)
    return rendered.take(good), findings


def _earlier(table: _Table) -> tuple[Sequence[tuple[Turn, ...]] | None, set[int]]:
    """Return the turns before the last one of each row (None: no row has any), and the rows with a bad turn.

    All turns are rendered as the rows of one table, column by column, which is what makes it fast.
    """
    rows, template = table.rows, table.template
    all_turns = [
        (row, turn, messages)
        for row, each in enumerate(rows.conversations or ())
        if each is not None
        # The messages are also those of the last turn, which is not among the earlier ones.
        for turn, messages in zip(each.conversation.earlier, each.messages, strict=False)
    ]
    if not all_turns:
        return None, set()
    try:
        template.check_turns()
    except TemplateError as error:
        for problem in error.problems:
            table.findings.add("template", f"{rows.file}: {problem}")
        return None, set()

    owners = [row for row, _, _ in all_turns]
    columns = {
        TEXT_INPUT: [turn.text_input for _, turn, _ in all_turns],
        OUTPUT: [turn.output for _, turn, _ in all_turns],
    }
    places = [RowConversation(Conversation(turn.text_input), (messages,)) for _, turn, messages in all_turns]
    turn_rows = replace(rows.take(owners).with_columns(columns), conversations=places)
    turns = _Table(turn_rows, template, table.limits, table.findings)
    # A row that is bad already has its finding; its turns would only repeat it.
    turns.bad = {number for number, row in enumerate(owners) if row in table.bad}
    texts = {part: turns.texts(part) for part in PARTS}
    turns.check_texts(texts)

    rendered = map(Turn, texts[TEXT_INPUT], texts[OUTPUT], (turn.is_learned for _, turn, _ in all_turns))
    counts = (0 if each is None else len(each.conversation.earlier) for each in rows.conversations or ())
    return [tuple(islice(rendered, count)) for count in counts], {owners[number] for number in turns.bad}


class _Table:
    """Rows that are rendered together: those of a file, or the earlier turns of their conversations.

    Attributes:
        bad: positions of the rows that cannot be used; each has a finding.
    """

    def __init__(self, rows: Rows, template: PromptTemplate, limits: CharacterLimits, findings: Findings) -> None:
        self.rows = rows
        self.template = template
        self.limits = limits
        self.findings = findings
        self.bad: set[int] = set()

    def _add(self, row: int, part: str, kind: str, what: str) -> None:
        """Add a finding on a row, with the place of the message in its conversation."""
        message = self.rows.message(row, part)
        self.findings.add_row(kind, self.rows.lines[row], f"{message}: {what}" if message else what)

    def _add_bad_cell(self, row: int, column: str, part: str, what: str) -> None:
        text = f"the cell of {column!r} {what}, and template.{part} uses it; fill it in as text"
        self._add(row, part, what, text)

    def check_cells(self) -> None:
        """Find the rows that lack a cell which the template prints unconditionally."""
        rows, parts = self.rows, self.template.parts
        named_by = {column: part for part in reversed(parts) for column in self.template.printed(part)}
        for column in sorted(named_by):
            lacking, findings = require(rows, column, f"template.{named_by[column]}")
            self.bad.update(lacking)
            self.findings.extend(findings)
        # Where a name is close to a column's, the finding on the column names it, which helps more than a new template.
        absent = [column for column in named_by if column not in rows.columns]
        is_typo = len(rows.columns) > 1 and any(close_name(column, rows.columns) for column in absent)
        if absent and len(rows) and not is_typo:
            self.findings.add("template", f"{rows.file}: {advice_on_template(rows)}")

        def unusable(column: str, part: str) -> Iterator[tuple[int, int, str, str]]:
            cells = rows.columns.get(column, ())
            if set(map(type, cells)) - {str}:  # most columns are text throughout
                for row, cell in enumerate(cells):
                    if cell is not ABSENT and (why := _why_unusable(cell)):
                        yield row, parts.index(part), column, why

        # In the order of the rows, and in a row in that of the template's parts.
        for row, part_number, column, why in heapq.merge(*(unusable(*each) for each in named_by.items())):
            self._add_bad_cell(row, column, parts[part_number], why)
            self.bad.add(row)

    def texts(self, part: str) -> Sequence[str]:
        """Render one part of every row; the text of a row that cannot be rendered is empty."""
        rows, count = self.rows, len(self.rows)
        # Most templates are text and columns alone: joining whole columns spares a call of Jinja2 for each row.
        segments = self.template.segments(part, rows.columns)
        if segments is not None:
            columns = [
                _printed(rows.columns[each.name]) if isinstance(each, PrintedColumn) else [each] * count
                for each in segments
            ]
            texts = [column for column in columns if column is not None]
            if len(texts) == len(columns):
                if len(texts) > 1:
                    return ["".join(row) for row in zip(*texts, strict=True)]
                return texts[0] if texts else [""] * count  # an empty template.system has no segments

        rendered = [""] * count
        for row in range(count):
            if row in self.bad:
                continue
            cells = rows.cells(row)
            try:
                rendered[row] = self.template.render_part(part, cells)
                continue
            except AbsentCellError as error:
                if error.is_null:
                    self._add_bad_cell(row, error.column, error.part, "is null")
                else:
                    wanted = _wanted(error.column, f"template.{error.part}", list(cells))
                    self._add(row, part, "column", f"the row has no column {wanted}")
            except TemplateError as error:
                self._add(row, part, "template", f"{error}; correct the template, or this row")
            self.bad.add(row)
        return rendered

    def check_texts(self, texts: dict[str, Sequence[str]]) -> None:
        """Find the rows whose texts cannot be learned: blank, too long, or with a lone surrogate."""
        most = {TEXT_INPUT: self.limits.text_input, OUTPUT: self.limits.output, SYSTEM: self.limits.text_input}
        doubtful = {
            row
            for part, of_part in texts.items()
            for row, text in enumerate(of_part)
            # Only a text beyond ASCII can hold a surrogate, and to look for one is slow.
            if not text.isascii() or not text.strip() or ((limit := most[part]) is not None and len(text) > limit)
        }
        for row in sorted(doubtful - self.bad):
            for part in texts:
                text, limit = texts[part][row], most[part]
                complaints: list[tuple[str, str]] = []
                if not text.strip():
                    complaints.append(("blank", "is blank after the template; fill in the row or remove it"))
                if limit is not None and len(text) > limit:
                    what = f"has {len(text):,} characters, the limit is {limit:,} ({GUIDE}); shorten it"
                    complaints.append(("long", what))
                if not is_unicode(text):
                    what = "contains an unpaired surrogate (such as \\ud800 in JSON); fix the character or remove it"
                    complaints.append(("surrogate", what))
                for kind, what in complaints if part != SYSTEM or text else ():
                    self._add(row, part, kind, f"{part} {what}")
                    self.bad.add(row)


def require(rows: Rows, column: str, named_by: str) -> tuple[Sequence[int], Findings]:
    """Return the rows that lack a column, with findings: one line if all do, else one line each.

    Args:
        rows: of one file.
        column: the required one.
        named_by: the config's key that names it.
    """
    findings = Findings(rows.file, rows.counted_in)
    if column not in rows.columns:
        if len(rows):
            wanted = _wanted(column, named_by, list(rows.columns))
            findings.add("column", f"{rows.file}: no row has the column {wanted}")
        return range(len(rows)), findings
    lacking = [row for row, cell in enumerate(rows.columns[column]) if cell is ABSENT]
    for row in lacking:
        wanted = _wanted(column, named_by, list(rows.cells(row)))
        findings.add_row("column", rows.lines[row], f"the row has no column {wanted}")
    return lacking, findings


def _wanted(column: str, named_by: str, names: Sequence[str]) -> str:
    return f"{column!r}, which {named_by} names; {nearest(column, names)}"


def _why_unusable(cell: Any) -> str | None:
    if is_null(cell):
        return "is null"
    # `1E400` in JSON is infinite as a float too, but keeps its spelling, so it can be printed.
    if isinstance(cell, float) and math.isinf(cell) and str(cell) in _INFINITIES:
        return "is infinite"
    return "holds bytes" if isinstance(cell, bytes | bytearray) else None


def _printed(cells: Sequence[Any]) -> Sequence[str] | None:
    """Return the cells of a column as a template prints them; None: some cells need Jinja2's rendering."""
    types = set(map(type, cells))
    if types == {str}:
        return cells
    if not all(issubclass(each, str | int | float | bytes | NoneType) or each is type(ABSENT) for each in types):
        return None
    words = {True: "true", False: "false"}  # as JSON writes them, and the templates' own `{{ }}`
    printed = [
        # A row with a cell that is neither text nor a number is bad already, so its text is never used.
        words[cell] if isinstance(cell, bool) else str(cell) if isinstance(cell, str | int | float) else ""
        for cell in cells
    ]
    # The text `inf` is text, but an infinite float has to be refused, with its row.
    return None if _INFINITIES & set(printed) and any(issubclass(each, float) for each in types) else printed
