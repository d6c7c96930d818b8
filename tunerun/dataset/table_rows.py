"""Rows from delimited text: CSV, TSV, and tables with semicolons or pipes."""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from tunerun.dataset.rows import Findings, Rows, listed, place_of

DELIMITERS = {"csv": ",", "tsv": "\t", "semicolon": ";", "pipe": "|"}

SEPARATOR_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\"?sep=([^\r\n])\"?[,;\t|]*\r?\n", re.IGNORECASE)
"""The first line `sep=;` of a CSV file, by which Excel names the separator."""

_TRANSPOSED_AT_ONCE = 10_000
"""Records that are transposed into columns at once: few enough for memory, many enough for speed."""


def delimited_rows(
    file: str, content: bytes, format_name: str, findings: Findings, columns: Sequence[str] | None = None
) -> Rows:
    """Read a table with RFC 4180's quoting; quotes in TSV and pipe files are text if only that fits every line.

    Blank lines are skipped. Columns without a name and without cells, which spreadsheets write, are dropped.

    Args:
        file: its name for messages and rows.
        content: all bytes of the file.
        format_name: a key of `DELIMITERS`; Excel's `sep=` line overrules it.
        findings: where problems go.
        columns: the names, where the file has no header; empty: `column 1` and so on; None: its first line names them.

    Raises:
        UnicodeDecodeError: the content is not UTF-8.
    """
    separator = SEPARATOR_LINE.match(content)
    delimiter = separator[1].decode("utf-8") if separator else DELIMITERS[format_name]
    literal = delimiter in "\t|" and b'"' in content and _quotes_are_text(file, content, delimiter, findings)
    reader = csv.reader(
        _lines(content), delimiter=delimiter, quoting=csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL, strict=True
    )
    records = _records(file, reader, findings)
    if separator:
        next(records, None)
    if columns is None:
        header_line, header = next(records, (1, []))
        counted_by, remedy = "the header has", "quote cells that hold a separator or a newline"
    elif not columns:
        first = next(records, (1, []))
        records = chain([first], records)
        header_line, header = 0, [f"column {number}" for number in range(1, len(first[1]) + 1)]
        counted_by, remedy = "the first line has", "quote cells that hold a separator or a newline"
    else:
        header_line, header = 0, list(columns)
        counted_by, remedy = "dataset.columns has", "name every column there, and quote cells that hold a separator"
    return _Table(file, header_line, header, f"{counted_by} {len(header)}; {remedy}", findings).rows(records)


def _lines(content: bytes) -> io.TextIOWrapper:
    """Decode line by line, so that memory does not hold a second copy; line ends inside quotes are kept."""
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")


def _quotes_are_text(file: str, content: bytes, delimiter: str, findings: Findings) -> bool:
    """Whether every line is a record only if quotes are plain text; warns where both readings are possible."""
    lines = [line for line in _lines(content) if line.strip()]
    width = lines[0].count(delimiter)
    if any(line.count(delimiter) != width for line in lines):
        return False
    try:
        records = [len(cells) for cells in csv.reader(_lines(content), delimiter=delimiter, strict=True) if cells]
    except csv.Error:
        records = []
    if any(cells != width + 1 for cells in records) or not records:
        findings.warn("quotes", f"{file}: quotes are read as text; as marks of cells they would not fit its lines")
        return True
    if len(records) < len(lines):
        what = f"quotes join {len(lines):,} lines into {len(records):,} records, though each line could be one"
        findings.warn("quotes", f"{file}: {what}; if the quotes are text, double them and put each such cell in quotes")
    return False


def _records(
    file: str,
    reader: csv._reader,  # type: ignore[name-defined]  # the class exists only in typeshed
    findings: Findings,
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its cells; stop at the first broken quote."""
    line = 1
    try:
        for cells in reader:
            if cells and not (len(cells) == 1 and cells[0].isspace()):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        findings.add("csv", f"{file}:{line}: {_complaint(error)}")


class _Table:
    """Transposes records into columns, with a finding for each record that does not fit the header."""

    def __init__(self, file: str, header_line: int, header: list[str], expected: str, findings: Findings) -> None:
        self._file = file
        self._header_line = header_line
        self._header = header
        self._expected = expected
        self._findings = findings
        self._lines = array("q")
        self._columns = [list[str]() for _ in header]

    def rows(self, records: Iterator[tuple[int, list[str]]]) -> Rows:
        while chunk := list(islice(self._fitting(records), _TRANSPOSED_AT_ONCE)):
            for column, cells in zip(self._columns, zip(*chunk, strict=True), strict=True):
                column.extend(cells)
        named = [
            (name, column)
            for name, column in zip(self._header, self._columns, strict=True)
            if name.strip() or any(map(str.strip, column))
        ]
        if repeated_names(f"{self._file}:{self._header_line}", [name for name, _ in named], self._findings):
            return Rows(self._file, (), {})
        return Rows(self._file, self._lines, dict(named), has_header=self._header_line > 0)

    def _fitting(self, records: Iterator[tuple[int, list[str]]]) -> Iterator[list[str]]:
        width = len(self._header)
        for line, cells in records:
            if len(cells) != width and not self._made_to_fit(cells, width):
                self._findings.add_row(
                    "ragged", place_of(self._file, line), f"has {_cells(len(cells))}, {self._expected}"
                )
                continue
            if not self._lines and not self._header_line and cells == self._header:
                what = "the first line is a header, and dataset.columns names it again"
                self._findings.add("header", f"{self._file}:{line}: {what}; remove dataset.columns")
            self._lines.append(line)
            yield cells

    def _made_to_fit(self, cells: list[str], width: int) -> bool:
        """Cut off surplus empty cells, or pad columns without a name; return whether the record fits then."""
        if any(map(str.strip, cells[width:])) or any(map(str.strip, self._header[len(cells) :])):
            return False
        cells[:] = [*cells[:width], *[""] * (width - len(cells))]
        return True


def _complaint(error: csv.Error) -> str:
    if "field limit" in str(error):
        return (
            f"a cell has over {csv.field_size_limit():,} characters; close its quote, or use JSON lines for long texts"
        )
    if "unexpected end" in str(error):
        return "a quote is opened here and never closed; close it"
    return f"broken quoting: {error}; double the quotes inside a quoted cell"


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def repeated_names(place: str, names: Sequence[str], findings: Findings) -> bool:
    """Whether columns share a name; adds a finding if they do."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        findings.add(
            "header", f"{place}: the header names {listed(repeated)} more than once; give each column its name"
        )
    return bool(repeated)
