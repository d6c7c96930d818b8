"""Rows from delimited text: CSV, TSV, and tables with semicolons or pipes."""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from tunerun.dataset.findings import Findings
from tunerun.dataset.rows import Rows, listed

DELIMITERS = {"csv": ",", "tsv": "\t", "semicolon": ";", "pipe": "|"}

SEPARATOR_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\"?sep=([^\r\n])\"?[,;\t|]*\r?\n", re.IGNORECASE)
"""The first line `sep=;` of a CSV file, by which Excel names the separator. It may be in quotes, and the separators of
further columns may follow it."""

_TRANSPOSED_AT_ONCE = 10_000
"""Records that are transposed into columns at once: few enough for memory, many enough for speed."""


def delimited_rows(
    file: str, content: bytes, format_name: str, columns: Sequence[str] | None = None
) -> tuple[Rows, Findings]:
    """Read a table with RFC 4180's quoting; quotes in TSV and pipe files are text if only that fits every line.

    Blank lines are skipped. Columns without a name and without cells, which spreadsheets write, are dropped.

    Args:
        file: its name for messages and rows.
        content: all bytes of the file.
        format_name: a key of `DELIMITERS`; Excel's `sep=` line overrules it.
        columns: the names, where the file has no header; empty: `column 1` and so on; None: its first line names them.

    Raises:
        UnicodeDecodeError: the content is not UTF-8.
    """
    separator = SEPARATOR_LINE.match(content)
    delimiter = separator[1].decode("utf-8") if separator else DELIMITERS[format_name]
    findings = Findings(file)
    # TSV as IANA registered it has no quoting, but Excel quotes its cells as in CSV: the lines themselves decide.
    may_be_text = delimiter in "\t|" and b'"' in content
    are_text, doubt = _quotes_are_text(content, delimiter) if may_be_text else (False, "")
    if doubt:
        findings.warn("quotes", f"{file}: {doubt}")
    reader = csv.reader(
        _lines(content), delimiter=delimiter, quoting=csv.QUOTE_NONE if are_text else csv.QUOTE_MINIMAL, strict=True
    )
    records = _records(file, reader, findings)
    if separator:
        next(records, None)
    remedy = "quote cells that hold a separator or a newline"
    if columns is None:
        header_line, header = next(records, (1, []))
        counted_by = "the header has"
    elif not columns:
        first = next(records, (1, []))
        records = chain([first], records)
        header_line, header = 0, [f"column {number}" for number in range(1, len(first[1]) + 1)]
        counted_by = "the first line has"
    else:
        header_line, header = 0, list(columns)
        counted_by, remedy = "dataset.columns has", "name every column there, and quote cells that hold a separator"
    table = _Table(file, header_line, header, f"{counted_by} {len(header)}; {remedy}", findings)
    return table.rows(records), findings


def _lines(content: bytes) -> io.TextIOWrapper:
    """Decode line by line, so that memory does not hold a second copy; line ends inside quotes are kept."""
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")


def _quotes_are_text(content: bytes, delimiter: str) -> tuple[bool, str]:
    """Return whether every line is a record only if quotes are plain text, and a warning or an empty text."""
    lines = [line for line in _lines(content) if line.strip()]
    width = lines[0].count(delimiter)
    if any(line.count(delimiter) != width for line in lines):
        return False, ""
    try:
        records = [len(cells) for cells in csv.reader(_lines(content), delimiter=delimiter, strict=True) if cells]
    except csv.Error:
        records = []
    if any(cells != width + 1 for cells in records) or not records:
        return True, "quotes are read as text; as marks of cells they would not fit its lines"
    if len(records) == len(lines):
        return False, ""
    what = f"quotes join {len(lines):,} lines into {len(records):,} records, though each line could be one"
    return False, f"{what}; if the quotes are text, double them and put each such cell in quotes"


def _records(
    file: str,
    reader: csv._reader,  # type: ignore[name-defined]  # the class exists only in typeshed
    findings: Findings,
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its cells; stop at the first broken quote."""
    line = 1
    try:
        for cells in reader:
            if cells and not (len(cells) == 1 and cells[0].isspace()):  # a blank line is not a row
                yield line, cells
            line = reader.line_num + 1  # not `line + 1`: cells may have line breaks
    except csv.Error as error:
        complaint = f"broken quoting: {error}; double the quotes inside a quoted cell"
        # By the texts of CPython's csv module, which has no codes for its errors.
        if "field limit" in str(error):
            most = f"{csv.field_size_limit():,} characters"
            complaint = f"a cell has over {most}; close its quote, or use JSON lines for long texts"
        elif "unexpected end" in str(error):
            complaint = "a quote is opened here and never closed; close it"
        findings.add("csv", f"{file}:{line}: {complaint}")


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
        if repeated := repeated_names([name for name, _ in named]):
            self._findings.add("header", f"{self._file}:{self._header_line}: {repeated}")
            return Rows(self._file, (), {})
        return Rows(self._file, self._lines, dict(named), has_header=self._header_line > 0)

    def _fitting(self, records: Iterator[tuple[int, list[str]]]) -> Iterator[list[str]]:
        width = len(self._header)
        for line, cells in records:
            if len(cells) != width:
                # Spreadsheets write surplus empty cells, and leave out those of columns without a name.
                if any(map(str.strip, cells[width:])) or any(map(str.strip, self._header[len(cells) :])):
                    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                    self._findings.add_row("ragged", line, f"has {count}, {self._expected}")
                    continue
                cells = [*cells[:width], *[""] * (width - len(cells))]
            if not self._lines and not self._header_line and cells == self._header:
                what = "the first line is a header, and dataset.columns names it again"
                self._findings.add("header", f"{self._file}:{line}: {what}; remove dataset.columns")
            self._lines.append(line)
            yield cells


def repeated_names(names: Sequence[str]) -> str:
    """Return a message on names that several columns share; empty: every column has its own."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    return f"the header names {listed(repeated)} more than once; give each column its name" if repeated else ""
