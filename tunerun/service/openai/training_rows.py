"""The rows of a fine-tuning file: checked line by line, and converted into examples.

A file is read in parts, so that one of 512 MB is never whole in memory while it is checked.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from tunerun.dataset.checks import CharacterLimits, render_rows
from tunerun.dataset.json_rows import jsonl_rows
from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.dataset.rows import Findings, Rows
from tunerun.job import Example, TemplateText
from tunerun.service.core.problems import MAX_PROBLEMS, Code
from tunerun.service.openai.problems import OpenAiError
from tunerun.template import PromptTemplate

PART_BYTES = 2**20
"""Read and checked at once."""

MAX_LINE_BYTES = 2**24
"""Of one row: more than any base model reads."""

_SHAPES = ("messages", "contents", "conversations")
_PAIR = ("text_input", "output")
"""The columns of a row: one of the first, or both of the last."""

_ANY_LENGTH = CharacterLimits(None, None)


def check(path: Path, name: str) -> int:
    """Check every row of a file, and return how many there are.

    Args:
        name: what the file is called.

    Raises:
        OpenAiError: some rows give no example; names the lines of the first.
    """
    findings = Findings(most=MAX_PROBLEMS)
    count = 0
    for part in _parts(path, name, findings):
        count += len(part)
        if len(findings) >= MAX_PROBLEMS:
            break
    if findings:
        lines = findings.lines[:MAX_PROBLEMS]
        raise OpenAiError(Code.INVALID_ARGUMENT, "\n".join(lines), param="file", word="invalid_file_format")
    if not count:
        raise OpenAiError(
            Code.INVALID_ARGUMENT, f"{name}: holds no rows; add examples", param="file", word="invalid_file_format"
        )
    return count


def read(path: Path, name: str) -> tuple[Example, ...]:
    """Read the examples of a file that `check` has accepted."""
    findings = Findings(most=MAX_PROBLEMS)
    return tuple(example for part in _parts(path, name, findings) for example in part.examples)


def _parts(path: Path, name: str, findings: Findings) -> Iterator[RenderedRows]:
    """The rows of a file that make an example, part by part; why the others do not is added to `findings`."""
    template = PromptTemplate(TemplateText())
    for first_line, content in _lines(path, name, findings):
        try:
            rows = jsonl_rows(name, content, findings, first_line)
        except UnicodeDecodeError:
            number = first_line + _first_not_utf_8(content)
            findings.add_row("encoding", f"{name}:{number}", "is not UTF-8; save the file as UTF-8")
            continue
        yield render_rows(_with_conversations(rows, findings), template, _ANY_LENGTH, findings)


def _lines(path: Path, name: str, findings: Findings) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a file, some at once, each time with the number of the first."""
    with path.open("rb") as file:
        number, lines, size = 1, list[bytes](), 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                place = f"{name}:{number + len(lines)}"
                findings.add_row("length", place, f"has more than {MAX_LINE_BYTES:,} bytes; write one row on each line")
                break
            lines.append(line)
            size += len(line)
            if size >= PART_BYTES:
                yield number, b"".join(lines)
                number, lines, size = number + len(lines), [], 0
        if lines:
            yield number, b"".join(lines)


def _with_conversations(rows: Rows, findings: Findings) -> Rows:
    """The rows that hold something that can be learned, by the names of their columns; the others are findings."""
    kept = []
    for index in range(len(rows)):
        cells = rows.cells(index)
        if any(name in cells for name in _SHAPES) or all(name in cells for name in _PAIR):
            kept.append(index)
        else:
            text = 'has no "messages"; write {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}'
            findings.add_row("messages", rows.place(index), text)
    return rows if len(kept) == len(rows) else rows.take(kept)


def _first_not_utf_8(content: bytes) -> int:
    """How many lines are before the first that is not UTF-8."""
    for number, line in enumerate(io.BytesIO(content)):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return number
    return 0
