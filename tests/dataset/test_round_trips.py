"""What is written in any format is read back unchanged."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunerun.dataset import read_rows
from tunerun.errors import DatasetError

Rows = Sequence[dict[str, str]]

COLUMNS = ("text", "label", 'naïve column, "quoted"')


def _as_json(rows: Rows) -> bytes:
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def _as_wrapped_json(rows: Rows) -> bytes:
    return json.dumps({"kind": "x", "rows": rows}).encode()


def _as_json_lines(rows: Rows) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def _as_delimited(rows: Rows, delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _as_csv(rows: Rows) -> bytes:
    return _as_delimited(rows, ",")


def _as_tsv(rows: Rows) -> bytes:
    return _as_delimited(rows, "\t")


def _as_pipes(rows: Rows) -> bytes:
    return _as_delimited(rows, "|")


def _as_semicolons_of_excel(rows: Rows) -> bytes:
    return b"\xef\xbb\xbfsep=;\r\n" + _as_delimited(rows, ";")


def _as_compressed_lines(rows: Rows) -> bytes:
    return gzip.compress(_as_json_lines(rows))


def _as_arrow(rows: Rows) -> bytes:
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _as_parquet(rows: Rows) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


NASTY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ['"', '""', "\r", "\n\r\n", "\u2028", "\ufeff", ",\t;", "'", "\\", "\x00", " ", "", "null", "{}", "PAR1", "😀"]
)
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, NASTY)), min_size=1, max_size=5)
WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "a.json": _as_json,
    "b.json": _as_wrapped_json,
    "a.jsonl": _as_json_lines,
    "a.csv": _as_csv,
    "a.tsv": _as_tsv,
    "a.parquet": _as_parquet,
    "a.psv": _as_pipes,
    "b.csv": _as_semicolons_of_excel,
    "a.jsonl.gz": _as_compressed_lines,
    "a.arrow": _as_arrow,
}
FORMATS = {"a.psv": "pipe", "b.csv": "auto", "a.jsonl.gz": "auto"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=min(60, settings().max_examples))
@given(rows=ROWS, mark=st.booleans())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, name: str, rows: Rows, mark: bool) -> None:
    """Rows are read back as they were written, whatever their cells hold, with a byte order mark or without."""
    path = tmp_path_factory.getbasetemp() / name
    content = WRITERS[name](rows)
    can_be_marked = path.suffix in (".json", ".jsonl", ".csv", ".tsv") and not content.startswith(b"\xef\xbb\xbf")
    path.write_bytes(b"\xef\xbb\xbf" + content if mark and can_be_marked else content)
    # A header with commas inside a name looks like CSV and TSV at once.
    assert [row.columns for row in read_rows(path, FORMATS.get(name, path.suffix[1:]))] == rows


@given(content=st.binary(max_size=200), name=st.sampled_from(["x", *WRITERS]))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    """Whatever bytes a file holds, it is read or refused, and nothing else happens."""
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        assert read_rows(path)
    except DatasetError as error:
        assert all(problem.startswith(str(path)) for problem in error.problems)  # noqa: PT017
