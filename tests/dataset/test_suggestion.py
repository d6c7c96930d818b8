"""A template that fits the columns of a file."""

from pathlib import Path

import pytest

from tests.dataset.files import load
from tunerun.dataset import read_rows
from tunerun.dataset.suggestion import advice_on_template, suggested_template
from tunerun.errors import DatasetError
from tunerun.schema import Template
from tunerun.template import PromptTemplate


@pytest.mark.parametrize(
    ("columns", "text_input", "output"),
    [
        (["question", "answer"], "{{ question }}", "{{ answer }}"),
        (["label", "text"], "{{ text }}", "{{ label }}"),
        (["prompt", "completion"], "{{ prompt }}", "{{ completion }}"),
        (["id", "Tweet text", "label-coarse"], "{{ row['Tweet text'] }}", "{{ row['label-coarse'] }}"),
        (["id", "a", "b"], "{{ a }}", "{{ b }}"),
        (["", "a", "b"], "{{ a }}", "{{ b }}"),
        (["in", "class"], "{{ row['in'] }}", "{{ class }}"),
        (['it\'s "x"', "output"], "{{ row['it\\'s \"x\"'] }}", "{{ output }}"),
    ],
)
def test_suggested(columns: list[str], text_input: str, output: str) -> None:
    """The input and the output are the columns with such names, else the first and the last; the template works."""
    template = suggested_template(columns)
    assert template == Template(text_input=text_input, output=output)
    example = PromptTemplate(template).render({name: f"cell of {name}" for name in columns})
    assert example.text_input.startswith("cell of ")


@pytest.mark.parametrize("columns", [[], ["text"], ["", "text"]])
def test_too_few_columns(columns: list[str]) -> None:
    """One column makes no example."""
    assert suggested_template(columns) is None


def test_error_of_a_table_asks_for_its_header(tmp_path: Path) -> None:
    """The error of a table whose first line is a row says how to name its columns; with the names it is read."""
    path = tmp_path / "a.tsv"
    path.write_text("neg\tI am sad\npos\tI am glad\n")
    with pytest.raises(
        DatasetError, match=r"if its first line is a row .* name its columns in dataset\.columns \(2\)$"
    ):
        load(path)
    load(path, columns=("output", "text_input"))


def test_header_with_other_separators(tmp_path: Path) -> None:
    """The error of a table that is read as CSV and has semicolons names its format."""
    path = tmp_path / "a.csv"
    path.write_text("text_input;output\na;b\n")
    with pytest.raises(DatasetError, match=r"its only column holds separators; set dataset\.format=semicolon$"):
        load(path, format="csv")


def test_one_column(tmp_path: Path) -> None:
    """The error of a file with one column says that one is missing."""
    path = tmp_path / "a.csv"
    path.write_text("text\nx\n")
    advice = advice_on_template(read_rows(path))
    assert advice.startswith("an example needs two columns, an input and an output; add the one that is missing")
