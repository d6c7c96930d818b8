"""Files as people have them: read as what they are, or refused with what to do."""

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from tunerun.dataset import read_content, read_rows
from tunerun.dataset.reading import collect_rows
from tunerun.errors import DatasetError

LINES = b'{"q": "1", "a": "2"}\n{"q": "3", "a": "4"}\n'
LIST = b'[{"q": "1", "a": "2"},\n{"q": "3", "a": "4"}]'
TABLE = "q,a\n1,2\n3,4\n"
ROWS = [{"q": "1", "a": "2"}, {"q": "3", "a": "4"}]
BOM = b"\xef\xbb\xbf"


def _read(path: Path, content: bytes, **settings: Any) -> list[dict[str, Any]]:
    path.write_bytes(content)
    return _cells(path, **settings)


def _cells(path: Path, format_name: str = "auto", columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    rows, findings = collect_rows(path, format_name, columns)
    assert findings.lines() == ()
    return [dict(row.columns) for row in rows]


def _refused(path: Path, content: bytes, **settings: Any) -> str:
    path.write_bytes(content)
    _, findings = collect_rows(path, settings.get("format_name", "auto"), settings.get("columns"))
    (line,) = findings.lines()
    return line.removeprefix(str(path))


def _zstd(content: bytes) -> bytes:
    compressed: bytes = pyarrow.compress(content, codec="zstd", asbytes=True)
    return compressed


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", LINES),
        ("list.jsonl", LIST),
        ("bom.json", BOM + LIST),
        ("bom.jsonl", b"".join(BOM + line + b"\n" for line in LINES.splitlines())),
        ("blank.jsonl", b" \t\n" + LINES.replace(b"\n", b"\r\n\xe3\x80\x80\n")),
        ("sep.csv", b"sep=,\n" + TABLE.encode()),
        ("sep.csv", BOM + b"sep=;\r\n" + TABLE.replace(",", ";").encode()),
        ("sep.csv", b'"sep=|"\n' + TABLE.replace(",", "|").encode()),
        ("sep.txt", b"SEP=\t\n" + TABLE.replace(",", "\t").encode()),
        ("table.psv", TABLE.replace(",", "|").encode()),
        ("table.tab", TABLE.replace(",", "\t").encode()),
        ("semicolon.txt", TABLE.replace(",", ";").encode()),
        ("pipe.txt", TABLE.replace(",", "|").encode()),
        ("blank.csv", b"q,a\n  \n1,2\n\t\n3,4\n   "),
        ("unnamed.csv", b"q,a,,\n1,2,,\n3,4,, \n"),
        ("unnamed.csv", b",q,,a\n,1,,2\n,3,,4\n"),
        ("wider.csv", b"q,a\n1,2,,\n3,4\n"),
        ("shorter.csv", b"q,a,,\n1,2\n3,4,\n"),
    ],
)
def test_read(tmp_path: Path, name: str, content: bytes) -> None:
    """A format that its bytes tell without doubt is read, whatever the file is called."""
    assert _read(tmp_path / name, content) == ROWS


@pytest.mark.parametrize("compress", [gzip.compress, _zstd, bz2.compress, lzma.compress])
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", LINES), ("a.json", LIST), ("a.csv", TABLE.encode()), ("a.tsv", TABLE.replace(",", "\t").encode())],
)
def test_compressed(tmp_path: Path, name: str, content: bytes, compress: Callable[[bytes], bytes]) -> None:
    """A compressed file is read as the file inside, by the name without the compression's ending or as it looks."""
    assert _read(tmp_path / f"{name}.gz", compress(content)) == ROWS
    assert _read(tmp_path / name, compress(content)) == ROWS


@pytest.mark.parametrize(
    ("kind", "compress"), [("gzip", gzip.compress), ("zstd", _zstd), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_damaged_compression(tmp_path: Path, kind: str, compress: Callable[[bytes], bytes]) -> None:
    """A compressed file that was cut off is refused."""
    line = _refused(tmp_path / "a.jsonl.gz", compress(LINES * 100)[:-9])
    assert line == f": is damaged or cut off {kind} data; write it again"


def test_nothing_that_a_client_sends_is_decompressed() -> None:
    """A small compressed file can be a large one; only the user's own are decompressed."""
    with pytest.raises(DatasetError, match=r"^a\.json\.gz: looks like a gzip archive; give a file of"):
        read_content("a.json.gz", gzip.compress(LINES))


def test_workbook(tmp_path: Path) -> None:
    """An Excel workbook, whatever it is called, is refused with the command that converts it."""
    for name in ("a.xlsx", "a.csv"):
        with zipfile.ZipFile(tmp_path / name, "w") as workbook:
            workbook.writestr("xl/workbook.xml", "<workbook/>")
        line = _refused(tmp_path / name, (tmp_path / name).read_bytes())
        assert line.startswith(": looks like an Excel workbook")
        command = "libreoffice --headless --convert-to 'csv:Text - txt - csv (StarCalc):44,34,76'"
        assert line.endswith(f"; save it as CSV UTF-8, or run: {command} '{tmp_path / name}'")


@pytest.mark.parametrize(("name", "delimiter"), [("semicolon", ";"), ("pipe", "|")])
def test_delimiter_that_the_ending_does_not_say(tmp_path: Path, name: str, delimiter: str) -> None:
    """A .csv without commas is refused in auto, also with a comma in its header, and read with the setting."""
    content = f"q{delimiter}a, b{delimiter}c\n1, 2{delimiter}3{delimiter}4\n".encode()
    line = _refused(tmp_path / "a.csv", content)
    assert line.startswith(f": looks like a table with {name}s between cells, but its ending says CSV; ")
    assert line.endswith(f"set dataset.format={name}")
    assert _cells(tmp_path / "a.csv", name) == [{"q": "1, 2", "a, b": "3", "c": "4"}]


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        ('q\ta\nHe said "hi\tb\n"Great" film\tc\n', ['He said "hi', '"Great" film']),
        ('q\ta\n"open\tb\nd\tc\n', ['"open', "d"]),
        ('q\ta\n"a ""b"""\tb\n"x\ty\nz"\tc\n', ['a "b"', "x\ty\nz"]),
        ('q\ta\n"whole"\tb\n', ["whole"]),
    ],
)
def test_quotes_in_tsv(tmp_path: Path, content: str, cells: list[str]) -> None:
    """Quotes mark cells where that fits the file, and are text where only that does."""
    assert [row["q"] for row in _read(tmp_path / "a.tsv", content.encode())] == cells


def test_doubtful_quotes_are_a_warning(tmp_path: Path) -> None:
    """Where quotes could mark cells or be text, the rows are RFC 4180's, with a warning; text alone is one, too."""
    (tmp_path / "a.tsv").write_text('q\ta\n"1\t2\n3"\t4\n')
    rows, findings = collect_rows(tmp_path / "a.tsv", "auto")
    assert len(rows) == 1
    assert "quotes join 3 lines into 2 records" in findings.warnings()[0]
    (tmp_path / "b.tsv").write_text('q\ta\n"1" 2\t3\n')
    rows, findings = collect_rows(tmp_path / "b.tsv", "auto")
    assert len(rows) == 1
    assert "quotes are read as text" in findings.warnings()[0]


def test_columns_of_a_table_without_a_header(tmp_path: Path) -> None:
    """dataset.columns names the columns of a file whose first line is a row."""
    path = tmp_path / "a.tsv"
    assert _read(path, b"1\t2\n3\t4\n", columns=["q", "a"]) == ROWS
    assert [row.line for row in collect_rows(path, "auto", ["q", "a"])[0]] == [1, 2]
    assert _refused(path, b"q\ta\n1\t2\n", columns=["q", "a"]) == (
        ":1: the first line is a header, and dataset.columns names it again; remove dataset.columns"
    )
    assert _refused(path, b"1\t2\t3\n", columns=["q", "a"]).startswith(":1: has 3 cells, dataset.columns has 2; ")
    assert _refused(tmp_path / "a.jsonl", LINES, columns=["q", "a"]) == (
        ": JSON lines names its columns; remove dataset.columns"
    )


def test_unnamed_column_with_cells(tmp_path: Path) -> None:
    """A column without a name that holds cells, such as the index that pandas writes, is kept."""
    assert _read(tmp_path / "a.csv", b",q\n0,1\n1,3\n") == [{"": "0", "q": "1"}, {"": "1", "q": "3"}]


@pytest.mark.parametrize(
    "text",
    [
        "1.0",
        "1e5",
        "1.10",
        "0.1000",
        "1E400",
        "-0",
        "-0.0",
        "1",
        "12345678901234567890",
        "12345678901234567890.5",
        "1e-7",
    ],
)
def test_numbers_of_json_as_written(tmp_path: Path, text: str) -> None:
    """A number prints as the file writes it, at any depth, and is a number all the same."""
    for name, content in (
        ("a.jsonl", f'{{"n": {text}, "l": [{{"n": {text}}}]}}'),
        ("a.json", f'[{{"n": {text}, "l": []}}]'),
    ):
        row = _read(tmp_path / name, content.encode())[0]
        assert str(row["n"]) == text
        assert row["n"] == json.loads(text)
        assert [str(each["n"]) for each in row["l"]] in ([text], [])


def test_nan_and_infinity(tmp_path: Path) -> None:
    """NaN, which tables write for an empty cell, is null; an infinity stays one, for the template to refuse."""
    assert _read(tmp_path / "a.jsonl", b'{"a": NaN, "b": -Infinity}') == [{"a": None, "b": float("-inf")}]
    pyarrow.parquet.write_table(pyarrow.table({"a": [float("nan"), 1.5]}), tmp_path / "a.parquet")
    assert _cells(tmp_path / "a.parquet") == [{"a": None}, {"a": 1.5}]


def test_floats_of_parquet(tmp_path: Path) -> None:
    """A float of 32 or 16 bits has the fewest digits that tell it, at any depth."""
    columns = {
        "a": pyarrow.array([0.1, None, 2.5], pyarrow.float32()),
        "b": pyarrow.array([[0.1], [], None], pyarrow.list_(pyarrow.float32())),
        "c": pyarrow.array(
            [{"x": 0.1, "y": "z"}, None, {"x": None}], pyarrow.struct({"x": pyarrow.float16(), "y": pyarrow.string()})
        ),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert _cells(tmp_path / "a.parquet") == [
        {"a": 0.1, "b": [0.1], "c": {"x": 0.1, "y": "z"}},
        {"a": None, "b": [], "c": None},
        {"a": 2.5, "b": None, "c": {"x": None, "y": None}},
    ]


def test_times_of_parquet(tmp_path: Path) -> None:
    """Times print as Python's do; nanoseconds are not lost."""
    stamps = pyarrow.array([1_709_287_200_000_000_000, None], pyarrow.timestamp("ns"))
    precise = pyarrow.array([1_709_287_200_123_456_789, None], pyarrow.timestamp("ns"))
    pyarrow.parquet.write_table(pyarrow.table({"a": stamps, "b": precise}), tmp_path / "a.parquet")
    first, second = _cells(tmp_path / "a.parquet")
    assert {name: str(cell) for name, cell in first.items()} == {
        "a": "2024-03-01 10:00:00",
        "b": "2024-03-01 10:00:00.123456789",
    }
    assert second == {"a": None, "b": None}


def test_times_that_python_does_not_have(tmp_path: Path) -> None:
    """Years beyond 9999 and nanoseconds of a day's time are text; a time zone that does not exist is refused."""
    columns = {
        "a": pyarrow.array([10**7], pyarrow.date32()),
        "b": pyarrow.array([1], pyarrow.time64("ns")),
        "c": pyarrow.array([1000], pyarrow.time64("ns")),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    (row,) = _cells(tmp_path / "a.parquet")
    assert [str(cell) for cell in row.values()] == ["29349-01-26", "00:00:00.000000001", "00:00:00.000001"]
    zone = pyarrow.table({"a": pyarrow.array([1], pyarrow.timestamp("us", "Nowhere/Land"))})
    pyarrow.feather.write_feather(zone, str(tmp_path / "b.feather"))
    with pytest.raises(
        DatasetError, match=r"the column 'a' of timestamp\[us, tz=Nowhere/Land\] holds values that cannot"
    ):
        read_rows(tmp_path / "b.feather")


def _write_stream(path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def test_arrow(tmp_path: Path) -> None:
    """Arrow streams and files, and Feather, are read."""
    _write_stream(tmp_path / "a.arrow")
    assert _cells(tmp_path / "a.arrow") == ROWS
    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(ROWS), str(tmp_path / "a.feather"))
    assert _cells(tmp_path / "a.feather") == ROWS
    assert "no Arrow could be read from it" in _refused(tmp_path / "b.arrow", (tmp_path / "a.arrow").read_bytes()[:90])


def test_folder_of_datasets(tmp_path: Path) -> None:
    """A folder that Dataset.save_to_disk wrote is read in its order; one file of it is not the whole."""
    names = ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
    for name in names:
        _write_stream(tmp_path / name)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    assert _cells(tmp_path) == ROWS + ROWS
    assert read_rows(tmp_path)[3].place == f"{tmp_path}: row 4"
    with pytest.raises(
        DatasetError, match=r"is one Arrow file of a folder .* set dataset\.path=.*, or dataset\.format="
    ):
        read_rows(tmp_path / names[0])
    assert _cells(tmp_path / names[0], "arrow") == ROWS


def test_folder_of_several_splits(tmp_path: Path) -> None:
    """A folder that DatasetDict.save_to_disk wrote is refused with the folders that can be read."""
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DatasetError, match=rf"set dataset\.path to one of {tmp_path}/train, {tmp_path}/test$"):
        read_rows(tmp_path)


def test_damaged_folder(tmp_path: Path) -> None:
    """A saved folder without its Arrow files is refused."""
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    with pytest.raises(DatasetError, match="no Arrow could be read from it"):
        read_rows(tmp_path)
