"""What a file of rows holds, and the error where it cannot be read."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tunerun.dataset import SourceRow, read_content, read_rows
from tunerun.errors import DatasetError

ANY = "give a file of JSON, JSON lines, CSV, TSV, Parquet or Arrow"

NO_LIST = "{file}:1: holds an object without exactly one list of rows; put the rows into one list: [{{...}}, {{...}}]"

MALFORMED = {
    "empty": ("a.json", b"", ["{file}: is empty; add examples"]),
    "blank": ("a.csv", b"\xef\xbb\xbf \n\n", ["{file}: is empty; add examples"]),
    "no rows in JSON": ("a.json", b"[]", ["{file}: holds no rows; add examples"]),
    "only a header": ("a.csv", b"text,label\n", ["{file}: holds no rows; add examples"]),
    "broken JSON": (
        "a.json",
        b'[\n {"a": 1},\n {"a": }\n]',
        ["{file}:3: broken JSON in column 8: Expecting value; fix it there"],
    ),
    "broken JSON lines": (
        "a.jsonl",
        b'{"a": 1}\n{"a": }\n\n{"a" 1}\n{"a": 1}\n',
        [
            "{file}:2: broken JSON in column 7: Expecting value; fix it there",
            "{file}:4: broken JSON in column 6: Expecting ':' delimiter; fix it there",
        ],
    ),
    "nested too deeply": ("a.jsonl", b"[" * 100_000, ["{file}:1: the JSON is nested too deeply; flatten it"]),
    "a huge number": (
        "a.jsonl",
        b'{"a": ' + b"9" * 5000 + b"}",
        ["{file}:1: the JSON holds a number with too many digits; write it as a string"],
    ),
    "one object": (
        "a.json",
        b'{"a": 1}',
        [NO_LIST],
    ),
    "one conversation": (
        "a.json",
        b'{"messages": []}',
        [NO_LIST],
    ),
    "rows that are not objects": (
        "a.json",
        b'["a", 1,\n[1], null, true, {"a": 1}]',
        [
            "{file}:1: the row is a string, not an object; write it as {{column: cell, ...}}",
            "{file}:1: the row is a number, not an object; write it as {{column: cell, ...}}",
            "{file}:2: the row is a list, not an object; write it as {{column: cell, ...}}",
            "{file}:2: the row is null, not an object; write it as {{column: cell, ...}}",
            "{file}:2: the row is a boolean, not an object; write it as {{column: cell, ...}}",
        ],
    ),
    "a repeated key": (
        "a.jsonl",
        b'{"a": 1, "b": 2, "a": 3}',
        ["{file}:1: the key 'a' occurs twice in one object; keep one of them"],
    ),
    "a repeated list": (
        "a.json",
        b'{"rows": [{"a": 1}], "rows": [{"a": 2}]}',
        ["{file}:1: the key 'rows' occurs twice in one object; keep one of them"],
    ),
    "not UTF-8": (
        "a.csv",
        "text\nfine\ncafé\n".encode("latin-1"),
        ["{file}:3: is not UTF-8 at byte 13 of the file (0xe9); save it as UTF-8"],
    ),
    "UTF-16": (
        "a.csv",
        "text\ncafé\n".encode("utf-16"),
        ["{file}: looks like text in UTF-16, but its ending says CSV; save it as UTF-8"],
    ),
    "a repeated header": (
        "a.csv",
        b"\nid,text,id\n1,2,3\n",
        ["{file}:2: the header names 'id' more than once; give each column its name"],
    ),
    "ragged rows": (
        "a.csv",
        b'text,label\n"a\nb",c\nd\n\ne,f,g\n',
        [
            "{file}:4: has 1 cell, the header has 2; quote cells that hold a separator or a newline",
            "{file}:6: has 3 cells, the header has 2; quote cells that hold a separator or a newline",
        ],
    ),
    "an open quote": (
        "a.csv",
        b'text,label\na,b\n"c,d\ne,f\n',
        ["{file}:3: a quote is opened here and never closed; close it"],
    ),
    "broken quoting": (
        "a.csv",
        b'text,label\n"a" b,c\n',
        ["{file}:2: broken quoting: ',' expected after '\"'; double the quotes inside a quoted cell"],
    ),
    "UTF-16 without a byte order mark": (
        "a.csv",
        "text,label\ncaf\xe9,b\n".encode("utf-16-le"),
        ["{file}: looks like text in UTF-16 without a byte order mark, but its ending says CSV; save it as UTF-8"],
    ),
    "a trailing comma": (
        "a.json",
        b'[{"a": 1},\n]',
        ["{file}:2: broken JSON in column 1: Illegal trailing comma before end of array; fix it there"],
    ),
    "a missing comma": (
        "a.json",
        b'[{"a": 1}\n{"a": 2}]',
        ["{file}:2: broken JSON in column 1: Expecting ',' delimiter; fix it there"],
    ),
    "two lists": (
        "a.json",
        b'[{"a": 1}]\n[{"a": 2}]',
        ["{file}:2: broken JSON in column 1: Extra data; fix it there"],
    ),
    "an open list": (
        "a.json",
        b'[{"a": 1},',
        ["{file}:1: broken JSON in column 11: Expecting value; fix it there"],
    ),
    "unnamed columns with cells": (
        "a.csv",
        b"text,,\na,b,c\n",
        ["{file}:1: the header names '' more than once; give each column its name"],
    ),
    "an unknown sep= line": (
        "a.csv",
        b"sep=^\ntext^label\n",
        [f"{{file}}: looks like a table with an unknown sep= line, but its ending says CSV; {ANY}"],
    ),
    "an endless cell": (
        "a.csv",
        b'text,label\n"' + b"x" * 140_000,
        ["{file}:2: a cell has over 131,072 characters; close its quote, or use JSON lines for long texts"],
    ),
    "damaged Parquet": (
        "a.parquet",
        b"PAR1 and then nothing of the kind",
        ["{file}: is damaged or cut off; no Parquet could be read from it; write it again"],
    ),
    "Parquet called JSON": (
        "a.json",
        b"PAR1....",
        ["{file}: looks like Parquet, but its ending says JSON; rename it, or set dataset.format=parquet"],
    ),
    "JSON called Parquet": (
        "a.pq",
        b'[{"a": 1}]',
        ["{file}: looks like JSON, but its ending says Parquet; rename it, or set dataset.format=json"],
    ),
    "a zip archive called CSV": (
        "a.csv",
        b"PK\x03\x04....",
        [f"{{file}}: looks like a zip archive, not an Excel workbook, but its ending says CSV; {ANY}"],
    ),
    "a web page": (
        "a.jsonl",
        b"\n<!DOCTYPE html><html>",
        [f"{{file}}: looks like HTML, but its ending says JSON lines; {ANY}"],
    ),
    "a binary file": ("a.csv", b"a\x00b", [f"{{file}}: looks like a binary file, but its ending says CSV; {ANY}"]),
    "JSON called CSV": (
        "a.csv",
        b'[\n{"a": 1}\n]',
        ["{file}: looks like JSON, but its ending says CSV; rename it, or set dataset.format=json"],
    ),
    "CSV called JSON": (
        "a.json",
        b"text,label\na,b\n",
        ["{file}: looks like CSV, but its ending says JSON; rename it, or set dataset.format=csv"],
    ),
    "TSV called CSV": (
        "a.csv",
        b"text\tlabel\na\tb\n",
        ["{file}: looks like TSV, but its ending says CSV; rename it, or set dataset.format=tsv"],
    ),
    "semicolons": (
        "a.csv",
        b"text;label\na;b\n",
        [
            "{file}: looks like a table with semicolons between cells, but its ending says CSV; set dataset.format=semicolon",
        ],
    ),
    "prose": ("a.txt", b"Once upon a time\n", [f"{{file}}: looks like plain text; {ANY}"]),
}


@pytest.mark.parametrize(("name", "content", "problems"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(tmp_path: Path, name: str, content: bytes, problems: list[str]) -> None:
    """A malformed file is refused with one line for each problem: where, what, and what to do."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.") as refused:
        read_rows(path)
    assert list(refused.value.problems) == [problem.format(file=path) for problem in problems]
    with pytest.raises(DatasetError, match=r"a\.") as refused:
        read_content(name, content)
    assert list(refused.value.problems) == [problem.format(file=name) for problem in problems]


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    """A file that is not there is refused with the nearest name in its directory."""
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"trian\.json: the file does not exist; .* 'train\.json'$"):
        read_rows(tmp_path / "trian.json")


def test_missing_file_without_a_near_name(tmp_path: Path) -> None:
    """Where nothing in the directory is named alike, the path is to be corrected."""
    with pytest.raises(DatasetError, match=r"the file does not exist; correct the path$"):
        read_rows(tmp_path / "train.json")


def test_missing_directory(tmp_path: Path) -> None:
    """A missing directory is named."""
    with pytest.raises(DatasetError, match=r"not even the directory .*gone; correct the path$"):
        read_rows(tmp_path / "gone" / "train.json")


def test_directory(tmp_path: Path) -> None:
    """A directory is not a file of rows."""
    with pytest.raises(DatasetError, match=r"is a directory; name the file itself$"):
        read_rows(tmp_path)
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(DatasetError, match=r"is a directory of 'train\.jsonl'; name the file itself$"):
        read_rows(tmp_path)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_rows_with_keys_of_their_own(tmp_path: Path, name: str) -> None:
    """Rows that each have another key are refused before they fill the memory."""
    rows = [json.dumps({f"id {n}": n}) for n in range(1_001)]
    (tmp_path / name).write_text("\n".join(rows) if name == "a.jsonl" else f"[{','.join(rows)}]")
    with pytest.raises(DatasetError, match=r"more than 1,000 different keys; put those that differ"):
        read_rows(tmp_path / name)


def test_path_through_a_file(tmp_path: Path) -> None:
    """What the operating system refuses is reported in its own words."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match=r"file/train\.json: "):
        read_rows(tmp_path / "file" / "train.json")


def test_unknown_format(tmp_path: Path) -> None:
    """A format that does not exist is refused with those that do."""
    with pytest.raises(
        DatasetError, match=r"'xml' is unknown; use auto, json, jsonl, csv, tsv, semicolon, pipe, parquet, arrow$"
    ):
        read_rows(tmp_path / "a.json", "xml")


def test_errors_keep_cells_to_themselves(tmp_path: Path) -> None:
    """No error repeats a cell: it may hold a secret."""
    path = tmp_path / "a.csv"
    path.write_text('a,b\nhunter2\n"hunter2"hunter2,x\n')
    with pytest.raises(DatasetError, match="broken quoting") as refused:
        read_rows(path)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.json", '\n[\n {"a": 1}, {"a": 2},\n {\n"a": 3}\n]', [3, 3, 4]),
        ("a.json", '{"note": "x",\n"rows": [\n{"a": 1}], "b": {"c": []}}', [3]),
        ("a.jsonl", '{"a": 1}\r\n\r\n{"a": 2}', [1, 3]),
        ("a.csv", 'a,b\n"1\n2",x\n\n3,y', [2, 5]),
        ("a.tsv", "a\tb\r1\tx\r2\ty\r", [2, 3]),
    ],
)
def test_lines(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    """A row knows the line on which it starts."""
    path = tmp_path / name
    path.write_bytes(text.encode())
    rows = read_rows(path)
    assert [row.line for row in rows] == lines
    assert rows[0].place == f"{path}:{lines[0]}"


def test_parquet_counts_rows(tmp_path: Path) -> None:
    """A row of Parquet knows its number, and says that it is one."""
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x", None]}), path)
    assert list(read_rows(path)) == [
        SourceRow(str(path), 1, {"a": "x"}, "row"),
        SourceRow(str(path), 2, {"a": None}, "row"),
    ]
    assert read_rows(path)[1].place == f"{path}: row 2"


def test_parquet_with_repeated_columns(tmp_path: Path) -> None:
    """Parquet with two columns of one name is refused."""
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], ["a", "a"]), path)
    with pytest.raises(DatasetError, match="names 'a' more than once"):
        read_rows(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a": "1"}]', {"a": "1"}),
        ('{"rows": [{"a": "1"}]}', {"a": "1"}),
        ('{"a": "1"}\n{"a": "2"}', {"a": "1"}),
        ('{"a": "1"}', {"a": "1"}),
        ('{"messages": ["a"]}', {"messages": ["a"]}),
        ("a,b\n1,2", {"a": "1", "b": "2"}),
        ("a\tb, c\n1\t2", {"a": "1", "b, c": "2"}),
    ],
)
def test_format_by_looking(tmp_path: Path, text: str, expected: dict[str, object]) -> None:
    """Without an ending that says it, the format is found by looking into the file."""
    path = tmp_path / "rows.txt"
    path.write_text(text)
    assert read_rows(path)[0].columns == expected


def test_format_overrules_the_ending(tmp_path: Path) -> None:
    """A format that the config names is used, even if the only column's name looks like two."""
    path = tmp_path / "a.txt"
    path.write_text("text, please\nhello\n")
    assert read_rows(path, "tsv")[0].columns == {"text, please": "hello"}


def test_one_column_without_a_separator(tmp_path: Path) -> None:
    """CSV may have one column."""
    path = tmp_path / "a.csv"
    path.write_text('text\nhello\n""\n')
    assert [row.columns for row in read_rows(path)] == [{"text": "hello"}, {"text": ""}]


def test_import_is_light() -> None:
    """Importing the package imports none of the heavy libraries."""
    code = "import sys, tunerun.dataset; print({'pandas', 'pyarrow', 'mlflow', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
