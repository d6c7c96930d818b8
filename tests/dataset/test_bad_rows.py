"""Rows and files that cannot be used: errors that name their places, or rows that are skipped."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.dataset.files import load, numbers, problems_of, written
from tunerun.schema import HeldOut, Template


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Every problem of every file is in one error, each with its line."""
    chat = [{"role": "user", "content": "1"}]
    rows = [
        *numbers(1),
        {"text_input": None, "output": "2"},
        {"text_input": " ", "output": "2"},
        {"text_input": "1", "output": "x" * 5_001},
        {"text_input": "x" * 40_001, "output": ""},
        {"text_imput": "1", "output": "2"},
        {"messages": chat},
        {"text_input": "\ud800", "output": float("nan")},
        {"text_input": "\ud800", "output": "2"},
    ]
    path = written(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.csv").write_text("text_input,out\n1,2\n")
    held_out = str(tmp_path / "b.csv")
    guide = "(Gemini API model tuning guide, as last served 2025-04-28)"
    missing = str(tmp_path / "held_out.parquet")
    found = problems_of(path, limits=(40_000, 5_000), validation=HeldOut(path=held_out), test=HeldOut(path=missing))
    assert found == [
        f"{path}:7: its conversation has no answer to learn; end it with a message of the assistant",
        f"{path}:6: the row has no column 'text_input', which template.text_input names; the nearest is 'text_imput'",
        f"{path}:2: the cell of 'text_input' is null, and template.text_input uses it; fill it in as text",
        f"{path}:8: the cell of 'output' is null, and template.output uses it; fill it in as text",
        f"{path}:3: text_input is blank after the template; fill in the row or remove it",
        f"{path}:5: output is blank after the template; fill in the row or remove it",
        f"{path}:4: output has 5,001 characters, the limit is 5,000 {guide}; shorten it",
        f"{path}:5: text_input has 40,001 characters, the limit is 40,000 {guide}; shorten it",
        f"{path}:9: text_input contains an unpaired surrogate (such as \\ud800 in JSON); fix the character or remove it",
        f"{held_out}: no row has the column 'output', which template.output names; the nearest is 'out'",
        f"{missing}: the file does not exist; correct the path",
    ]


def test_rows_are_checked_beside_broken_ones(tmp_path: Path) -> None:
    """A line that is not JSON does not hide what is wrong with the others."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text_input": "1", "output": "2"}\n{\n{"text_input": "", "output": "2"}\n')
    broken, blank = problems_of(str(path))
    assert broken.startswith(f"{path}:2: broken JSON in column 2: ")
    assert blank == f"{path}:3: text_input is blank after the template; fill in the row or remove it"


def test_ten_thousand_bad_rows_are_a_few_lines(tmp_path: Path) -> None:
    """Of one kind of problem five lines are shown, the rest is counted."""
    path = written(tmp_path / "a.jsonl", [{"text_input": "", "output": "2"}] * 10_000)
    problems = problems_of(path)
    assert len(problems) == 5
    assert problems[-1].endswith("(and 9,995 more like this)")


def test_missing_column_without_a_near_name(tmp_path: Path) -> None:
    """Where no column is named alike, the columns are listed."""
    path = written(tmp_path / "a.jsonl", [{"q": "1", "a": "2"}])
    assert problems_of(path) == [
        f"{path}: no row has the column 'output', which template.output names; there are 'q', 'a'",
        f"{path}: no row has the column 'text_input', which template.text_input names; there are 'q', 'a'",
        f'{path}: for its columns write template: {{text_input: "{{{{ q }}}}", output: "{{{{ a }}}}"}}',
    ]


def test_a_column_that_shares_only_a_word_with_the_template_is_not_its_near_name(tmp_path: Path) -> None:
    """The template for the file's own columns is the better advice."""
    path = written(tmp_path / "a.jsonl", [{"text_input": "1", "output": "2"}])
    assert problems_of(path, template=Template(text_input="{{ text }}")) == [
        f"{path}: no row has the column 'text', which template.text_input names; there are 'text_input', 'output'",
        f'{path}: for its columns write template: {{text_input: "{{{{ text_input }}}}", output: "{{{{ output }}}}"}}',
    ]


def test_bytes(tmp_path: Path) -> None:
    """Bytes of Parquet are not text."""
    pyarrow.parquet.write_table(pyarrow.table({"text_input": [b"1"], "output": ["2"]}), tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert problems_of(path) == [
        f"{path}: row 1: the cell of 'text_input' holds bytes, and template.text_input uses it; fill it in as text"
    ]


@pytest.mark.parametrize("template", [Template(), Template(output="{% if output %}{{ output }}{% endif %}")])
def test_infinity(tmp_path: Path, template: Template) -> None:
    """An infinite number is refused where it is printed; a number that is too large for one is what the file writes."""
    (tmp_path / "a.jsonl").write_text('{"text_input": "1", "output": Infinity, "score": -Infinity}\n')
    path = str(tmp_path / "a.jsonl")
    (problem,) = problems_of(path, template=template)
    assert "infinit" in problem
    loaded = load(path, template=Template(output="{{ text_input }}"))
    assert len(loaded.training.examples) == 1


def test_infinity_is_refused_in_a_whole_column(tmp_path: Path) -> None:
    """Joining columns prints nothing that the template by itself would refuse; the text `inf` is text."""
    pyarrow.parquet.write_table(
        pyarrow.table({"text_input": ["inf", "b"], "output": [1.5, float("inf")]}), tmp_path / "a.parquet"
    )
    (problem,) = problems_of(str(tmp_path / "a.parquet"))
    assert "row 2" in problem
    assert "infinity" in problem


def test_failing_expression_keeps_the_cell_to_itself(tmp_path: Path) -> None:
    """An expression that fails names the row, and not its content."""
    path = written(tmp_path / "a.jsonl", [{"text_input": "hunter2", "output": "2"}])
    template = Template(text_input="{{ {'a': 'b'}[text_input] }}")
    assert problems_of(path, template=template) == [
        f"{path}:1: template.text_input: 'dict object' has no attribute '...'; correct the template, or this row"
    ]


def test_missing_stratify_by(tmp_path: Path) -> None:
    """The column to stratify by has to be there."""
    path = written(tmp_path / "a.jsonl", [{**row, "label": "x"} for row in numbers(3)])
    assert problems_of(path, stratify_by="labels") == [
        f"{path}: no row has the column 'labels', which dataset.stratify_by names; the nearest is 'label'"
    ]


def test_empty_part(tmp_path: Path) -> None:
    """A fraction that leaves a part empty is refused."""
    path = written(tmp_path / "a.jsonl", numbers(4))
    assert problems_of(path, validation=HeldOut(fraction=0.1), test=HeldOut(fraction=0.5)) == [
        f"{path}: dataset.validation.fraction=0.1 of 4 rows leaves it empty; raise it, or set dataset.validation.path"
    ]


def test_stratifying_by_a_column_without_repeats(tmp_path: Path) -> None:
    """The refusal says why nothing can be held out, and what to choose."""
    path = written(tmp_path / "a.jsonl", [{**row, "id": n} for n, row in enumerate(numbers(50))])
    assert problems_of(path, stratify_by="id", validation=HeldOut(fraction=0.2)) == [
        (
            f"{path}: dataset.validation.fraction=0.2 of 50 rows leaves it empty, as 50 of the 50 values of 'id' have one row "
            "each, kept to train on; set dataset.stratify_by=null, or choose a column whose values repeat"
        )
    ]


def test_bad_rows_are_skipped_where_the_config_says_so(tmp_path: Path) -> None:
    """on_bad_row=skip leaves out what cannot be used, with a count and the places, whatever is wrong with a row."""
    path = tmp_path / "a.jsonl"
    good = '{"text_input": "1", "output": "2"}\n'
    path.write_text(good + "{\n" + '{"text_input": "", "output": "2"}\n' + "[]\n" + '{"output": "2"}\n' + good)
    assert len(problems_of(str(path))) == 4
    loaded = load(str(path), on_bad_row="skip")
    assert len(loaded.training.examples) == 2
    count, *lines = loaded.warnings[:5]
    assert count == f"{path}: 4 rows are skipped (dataset.on_bad_row=skip)"
    assert {line.removeprefix(f"{path}:")[0] for line in lines} == {"2", "3", "4", "5"}


def test_rows_without_a_class_are_skipped(tmp_path: Path) -> None:
    """A row that lacks the column to stratify by is left out with the other bad rows, not put into a class."""
    rows = [{**row, "label": n % 2} for n, row in enumerate(numbers(10))]
    del rows[3]["label"]
    path = written(tmp_path / "a.jsonl", rows)
    loaded = load(path, stratify_by="label", on_bad_row="skip", validation=HeldOut(fraction=0.4))
    assert loaded.validation is not None
    texts = {each.text_input for each in (*loaded.training.examples, *loaded.validation.examples)}
    assert texts == {str(n) for n in range(10) if n != 3}


def test_problems_of_the_file_are_not_skipped(tmp_path: Path) -> None:
    """on_bad_row=skip still refuses a file without a column that is needed, and one without any good row."""
    no_column = written(tmp_path / "a.jsonl", [{"text_input": "1"}])
    assert problems_of(no_column, on_bad_row="skip")[0].startswith(f"{no_column}: no row has the column 'output'")
    all_bad = written(tmp_path / "b.jsonl", [{"text_input": "", "output": "2"}])
    assert problems_of(all_bad, on_bad_row="skip")[0].startswith(f"{all_bad}:1: text_input is blank")
