"""The columns of a template as MLflow's signature, and a row that shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunerun.dataset import read_rows, with_conversations
from tunerun.errors import TemplateError, TunerunError
from tunerun.job import TemplateText
from tunerun.template import PromptTemplate
from tunerun.template.prompt_template import OUTPUT, SYSTEM, TEXT_INPUT, PrintedColumn

_MAX_FILE_BYTES = 20 * 2**20
"""The largest file that is read for an example: about half a second. Our choice."""


@dataclass(frozen=True)
class InputColumn:
    """A column that a tuned model is asked with.

    Attributes:
        is_text: whether text is all that it is needed for; a list or a number otherwise.
        is_required: whether every row needs it.
    """

    name: str
    is_text: bool
    is_required: bool


def input_columns(template: PromptTemplate) -> list[InputColumn]:
    """Return the columns of a template's input, by name; empty: it uses whole rows, so any may be sent."""
    if template.uses_row:
        return []
    parts = [part for part in template.parts if part != OUTPUT]
    printed = {name for part in parts for name in template.printed(part)}
    other = {name for part in parts for name in template.columns_of(part) - template.texts(part)}
    return [InputColumn(name, name not in other, name in printed) for name in sorted(template.input_columns)]


def example_row(template: PromptTemplate, inputs: Iterable[str]) -> Mapping[str, str] | None:
    """Return the row behind the first input that shows what its cells were.

    Args:
        template: what the inputs were rendered with.
        inputs: rendered inputs.

    Returns:
        None: the template does more than print cells, or no input says where one cell ends and the next begins.
    """
    segments = template.segments(TEXT_INPUT, template.input_columns)
    if segments is None or template.columns_of(SYSTEM) - template.columns_of(TEXT_INPUT):
        return None
    # An input shows its cells if the shortest and the longest match agree: then no separator is inside a cell.
    names = list(dict.fromkeys(each.name for each in segments if isinstance(each, PrintedColumn)))
    shortest, longest = (_pattern(segments, names, cell) for cell in (".*?", ".*"))
    for text in inputs:
        match, other = shortest.fullmatch(text), longest.fullmatch(text)
        if match is None or other is None or match.groups() != other.groups():
            continue
        row = dict(zip(names, match.groups(), strict=True))
        try:
            if template.render_part(TEXT_INPUT, row) == text:
                return row
        except TemplateError:  # text that matched by chance
            continue
    return None


def _pattern(segments: Sequence[str | PrintedColumn], names: Sequence[str], cell: str) -> re.Pattern[str]:
    parts, placed = [], set[str]()
    for each in segments:
        if isinstance(each, str):
            parts.append(re.escape(each))
        else:
            group = f"c{names.index(each.name)}"
            parts.append(f"(?P={group})" if each.name in placed else f"(?P<{group}>{cell})")
            placed.add(each.name)
    return re.compile("".join(parts), re.DOTALL)


def stored_row(file: Path, template: PromptTemplate, inputs: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the first row of a file that one of some inputs was made from, with the columns that the template reads.

    Args:
        file: the rows.
        template: what the inputs were rendered with.
        inputs: rendered inputs.

    Returns:
        None: there is none; or the file is not on this machine, cannot be read or is large.
    """
    try:
        stat = file.stat()
        if not file.is_file() or stat.st_size > _MAX_FILE_BYTES:
            return None
        parts = template.template
        text = TemplateText(parts.text_input, parts.output, parts.system)
        return _stored_row(file, stat.st_mtime_ns, text, tuple(inputs))
    except (OSError, TunerunError):
        return None


@lru_cache(maxsize=4)  # the trials of a sweep have the same file and template
def _stored_row(file: Path, _changed_ns: int, text: TemplateText, inputs: tuple[str, ...]) -> Mapping[str, Any] | None:
    template, wanted = PromptTemplate(text), set(inputs)
    rows, _ = with_conversations(read_rows(file), template.input_columns)
    for row in rows:
        try:
            if template.render_part(TEXT_INPUT, row.columns) in wanted:
                used = {name for part in template.parts if part != OUTPUT for name in template.used(part, row.columns)}
                return {name: cell for name, cell in row.columns.items() if name in used}
        except TemplateError:
            continue
    return None
