"""Rows from tables: CSV and TSV with a header, and Parquet."""

from __future__ import annotations

import csv
import io
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

from tunerun.dataset.rows import Findings, Rows, listed, place_of

DELIMITERS = {"csv": ",", "tsv": "\t"}


def delimited_rows(file: str, text: str, format_name: str, findings: Findings) -> Rows:
    """Read CSV or TSV with RFC 4180's quoting; the first line names the columns, blank lines are skipped."""
    records = _records(file, text, DELIMITERS[format_name], findings)
    header_line, header = next(records, (1, []))
    if _repeated(f"{file}:{header_line}", header, findings):
        return Rows(file, (), {})
    lines, columns = array("q"), [list[str]() for _ in header]
    for line, cells in records:
        if len(cells) == len(header):
            lines.append(line)
            for column, cell in zip(columns, cells, strict=True):
                column.append(cell)
        else:
            what = f"has {_cells(len(cells))}, the header has {len(header)}"
            remedy = "quote cells that hold a separator or a newline"
            findings.add_row("ragged", place_of(file, line), f"{what}; {remedy}")
    return Rows(file, lines, dict(zip(header, columns, strict=True)), has_header=True)


def _records(file: str, text: str, delimiter: str, findings: Findings) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its cells; stop at the first broken quote."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        findings.add("csv", f"{file}:{line}: {_complaint(error)}")


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


def _repeated(place: str, names: Sequence[str], findings: Findings) -> bool:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        findings.add(
            "header", f"{place}: the header names {listed(repeated)} more than once; give each column its name"
        )
    return bool(repeated)


def parquet_rows(file: str, content: bytes, findings: Findings) -> Rows:
    """Read a Parquet file; a row's `line` is its number."""
    import pyarrow  # here: it takes longer to import than all the rest of this package
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read()
    except (pyarrow.ArrowException, OSError):
        findings.add("parquet", f"{file}: is damaged or cut off; no Parquet could be read from it; write it again")
        return Rows(file, (), {})
    if _repeated(file, table.column_names, findings):
        return Rows(file, (), {})
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Rows(file, range(1, table.num_rows + 1), columns, "row")
