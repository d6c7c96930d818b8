"""Files that are uploaded to the page."""

from __future__ import annotations

import json

import pytest

from tunerun.errors import DatasetError
from tunerun.service.core.stored_files import file_name
from tunerun.service.page.uploads import MAX_FILE_BYTES, SHOWN_CHARACTERS, SHOWN_COLUMNS, read_table


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("rows.csv", "rows.csv"),
        ("C:\\my files\\rows.csv", "rows.csv"),
        ("../../etc/rows.csv", "rows.csv"),
        ("a\x00b\u202e.csv", "ab.csv"),
        ("x" * 200 + ".csv", "x" * 76 + ".csv"),
        ("..", "file"),
        (None, "file"),
    ],
)
def test_file_names_are_cleaned(sent: str | None, name: str) -> None:
    """Folders and control characters are removed, and long names are shortened before their ending."""
    assert file_name(sent) == name


@pytest.mark.parametrize(
    ("header", "likely"),
    [
        ("note,output,text_input", ("text_input", "output")),
        ("question,answer,note", ("question", "answer")),
        ("output,question", ("question", "output")),
        ("answer,text_input", ("text_input", "answer")),
    ],
)
def test_the_columns_of_input_and_output_are_guessed(header: str, likely: tuple[str, str]) -> None:
    """By the API's names, otherwise by position."""
    assert read_table("a.csv", f"{header}\n{header}\n".encode()).likely() == likely


def test_cells_become_texts() -> None:
    """Numbers as a template prints them, lists as JSON, and missing cells as empty texts."""
    rows = [{"a": 1, "b": [1, "ü"]}, {"a": None, "c": True}]
    table = read_table("a.json", json.dumps(rows).encode())
    assert table.columns == ("a", "b", "c")
    assert table.head() == [["1", '[1, "ü"]', ""], ["", "", "true"]]
    first, second = table.examples("a", "c")
    assert (first.text_input, first.output, second.text_input, second.output) == ("1", "", "", "true")


def test_conversations_become_examples() -> None:
    """A conversation of one question and one answer has the columns text_input and output."""
    turns = [{"role": "user", "content": "two"}, {"role": "assistant", "content": "three"}]
    table = read_table("a.jsonl", json.dumps({"messages": turns}).encode())
    assert table.likely() == ("text_input", "output")
    assert (table.examples(*table.likely())[0].text_input, table.examples(*table.likely())[0].output) == (
        "two",
        "three",
    )


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ([{"role": "system", "content": "Count."}], "has a system message"),
        ([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}], "has several turns"),
    ],
)
def test_longer_conversations_are_refused(before: list[dict[str, str]], words: str) -> None:
    """The form makes pairs of texts; the error names commands that accept conversations."""
    turns = [*before, {"role": "user", "content": "two"}, {"role": "assistant", "content": "three"}]
    with pytest.raises(
        DatasetError, match=rf"^a\.jsonl:1: {words}, and this form takes one input and its output; tune"
    ):
        read_table("a.jsonl", json.dumps({"messages": turns}).encode())


def test_long_and_wide_files_are_shown_in_part() -> None:
    """The first rows and columns, and the beginning of long cells; every column can be chosen."""
    header = ",".join(f"c{number}" for number in range(50))
    row = ",".join(["x" * 300] * 50)
    table = read_table("a.csv", "\n".join([header] + [row] * 20).encode())
    assert (len(table.head()), len(table.head()[0]), len(table.columns)) == (10, SHOWN_COLUMNS, 50)
    assert table.head()[0][0] == "x" * SHOWN_CHARACTERS + "…"


@pytest.mark.parametrize(
    ("content", "may_lack"),
    [
        ("1,2\n3,4\n", True),
        ("seven,eight\nnine,ten\n", False),
        ("How do I pay?,card_payment\nWhere is it,card_arrival\n", True),
        ("my card is lost,lost_card\nit was stolen,lost_card\n", True),
        (f"{'word ' * 13},x\na,b\n", True),
        ("text_input,output\n1,2\n", False),
    ],
)
def test_a_table_that_may_lack_a_header_is_noticed(content: str, may_lack: bool) -> None:
    """By names that are numbers, sentences or cells of their column; the line can be read as a row instead."""
    assert read_table("a.csv", content.encode()).may_lack_a_header == may_lack
    table = read_table("a.csv", content.encode(), has_header=False)
    assert table.columns == ("column 1", "column 2")
    assert len(table.rows) == len(content.splitlines())
    assert not table.may_lack_a_header


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b\n1,2\n3\n", r"^a\.csv:3: has 1 cell, the header has 2"),
        ("a.json", b'[\n{"a": }]', r"^a\.json:2: broken JSON"),
        ("a.csv", b"", r"^a\.csv: is empty"),
        ("a.csv", b"a\n1\n", r"^a\.csv: has one column, 'a'"),
        ("a.csv", b"PAR1", r"^a\.csv: is Parquet or Arrow"),
        ("a.arrow", b"ARROW1", r"^a\.arrow: is Parquet or Arrow"),
        ("a.xlsx", b"PK\x03\x04", r"^a\.xlsx: looks like a zip archive, not an Excel workbook"),
        ("a.jsonl", b'{"messages": 1}\n' * 30, r"^a\.jsonl:1: (.|\n)*and 10 more like this\)$"),
        ("a.csv", b"a,b\n" * (MAX_FILE_BYTES // 4 + 1), r"^a\.csv: is over the limit of 4,194,304 bytes"),
    ],
)
def test_invalid_files_are_refused(name: str, content: bytes, message: str) -> None:
    """The error names the file and the line."""
    with pytest.raises(DatasetError, match=message):
        read_table(name, content)
