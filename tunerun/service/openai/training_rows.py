"""Checks the rows of a fine-tuning file, and converts them into examples.

Files are read in parts, so that a file of 512 MB is never in memory as a whole while it is checked.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from tunerun.dataset.findings import Findings
from tunerun.dataset.json_rows import jsonl_rows
from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.dataset.rendering import CharacterLimits, render_rows
from tunerun.dataset.rows import Rows
from tunerun.examples import Example
from tunerun.job import TemplateText
from tunerun.service.core.problems import MAX_PROBLEMS, Code
from tunerun.service.openai.problems import OpenAiError
from tunerun.template import PromptTemplate

PART_BYTES = 2**20
"""Bytes that are read and checked at a time."""

MAX_LINE_BYTES = 2**24
"""Limit of one row: above any base model's context."""

_SHAPES = ("messages", "contents", "conversations")
_PAIR = ("text_input", "output")
"""The columns of a row: one of `_SHAPES`, or both of `_PAIR`."""

_ANY_LENGTH = CharacterLimits(None, None)


def check(path: Path, name: str) -> int:
    """Check every row of a file, and return the number of rows.

    Args:
        path: the file.
        name: its name, for errors.

    Raises:
        OpenAiError: rows cannot be converted into examples; names the first lines.
    """
    findings = Findings(name)
    count = 0
    for part in _parts(path, name, findings):
        count += len(part)
        if len(findings) >= MAX_PROBLEMS:  # more would not be reported, and 512 MB take minutes
            break
    if findings:
        lines = findings.lines(MAX_PROBLEMS)[:MAX_PROBLEMS]
        raise OpenAiError(Code.INVALID_ARGUMENT, "\n".join(lines), param="file", word="invalid_file_format")
    if not count:
        raise OpenAiError(
            Code.INVALID_ARGUMENT, f"{name}: holds no rows; add examples", param="file", word="invalid_file_format"
        )
    return count


def read(path: Path, name: str) -> tuple[Example, ...]:
    """Return the examples of a file that `check` has accepted."""
    return tuple(example for part in _parts(path, name, Findings(name)) for example in part.examples)


def _parts(path: Path, name: str, findings: Findings) -> Iterator[RenderedRows]:
    """Yield the valid rows of a file, part by part; add a finding for each other row."""
    template = PromptTemplate(TemplateText())
    for first_line, content in _lines(path, findings):
        try:
            rows, of_part = jsonl_rows(name, content, first_line)
        except UnicodeDecodeError:
            number = first_line + _first_not_utf_8(content)
            findings.add_row("encoding", number, "is not UTF-8; save the file as UTF-8")
            continue
        findings.extend(of_part)
        rendered, of_rows = render_rows(_with_conversations(rows, findings), template, _ANY_LENGTH)
        findings.extend(of_rows)
        yield rendered


def _lines(path: Path, findings: Findings) -> Iterator[tuple[int, bytes]]:
    """Yield batches of complete lines, each with the number of its first line."""
    with path.open("rb") as file:
        number, lines, size = 1, list[bytes](), 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                what = f"has more than {MAX_LINE_BYTES:,} bytes; write one row on each line"
                findings.add_row("length", number + len(lines), what)
                break  # the rest of this line would be read as rows
            lines.append(line)
            size += len(line)
            if size >= PART_BYTES:
                yield number, b"".join(lines)
                number, lines, size = number + len(lines), [], 0
        if lines:
            yield number, b"".join(lines)


def _with_conversations(rows: Rows, findings: Findings) -> Rows:
    """Return the rows that have the columns of an example; add a finding for each other row."""
    kept = []
    for index in range(len(rows)):
        cells = rows.cells(index)
        if any(name in cells for name in _SHAPES) or all(name in cells for name in _PAIR):
            kept.append(index)
        else:
            text = 'has no "messages"; write {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}'
            findings.add_row("messages", rows.lines[index], text)
    return rows if len(kept) == len(rows) else rows.take(kept)


def _first_not_utf_8(content: bytes) -> int:
    """Return the number of lines before the first one that is not UTF-8."""
    for number, line in enumerate(io.BytesIO(content)):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return number
    return 0
