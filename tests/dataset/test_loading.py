"""From a dataset's config to example sets."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tunerun.dataset import LoadedDataset, load_examples
from tunerun.errors import DatasetError
from tunerun.examples import Example
from tunerun.schema import DatasetSection, HeldOut, Template
from tunerun.template import PromptTemplate

PLAIN = Template()


def _write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _numbers(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text_input": str(n), "output": str(n + 1)} for n in range(start, start + count)]


def _load(
    path: str,
    *,
    template: Template = PLAIN,
    limits: tuple[int | None, int | None] = (40_000, 5_000),
    **settings: Any,
) -> LoadedDataset:
    return load_examples(
        DatasetSection(path=path, **settings),
        PromptTemplate(template),
        max_input_characters=limits[0],
        max_output_characters=limits[1],
    )


def _problems(path: str, **settings: Any) -> list[str]:
    with pytest.raises(DatasetError, match="; ") as refused:
        _load(path, **settings)
    return list(refused.value.problems)


def test_order_and_digest(tmp_path: Path) -> None:
    """Without a limit the file's order is kept, and the digest is of the examples' canonical JSON."""
    path = _write(tmp_path / "a.jsonl", [{"text_input": "é", "output": "1"}, {"text_input": "a", "output": "2"}])
    loaded = _load(path)
    assert loaded.training.examples == (Example("é", "1"), Example("a", "2"))
    assert loaded.training.source == path
    canonical = '[{"output":"1","text_input":"é"},{"output":"2","text_input":"a"}]'
    assert loaded.training.digest == hashlib.sha256(canonical.encode()).hexdigest()
    assert (loaded.validation, loaded.test) == (None, None)


def test_digest_is_of_the_examples_alone(tmp_path: Path) -> None:
    """Another format or other columns that give the same examples give the same digest; another order does not."""
    first = _load(_write(tmp_path / "a.jsonl", _numbers(3)))
    (tmp_path / "b.csv").write_text("n,text_input,output\na,0,1\nb,1,2\nc,2,3\n")
    (tmp_path / "c.csv").write_text("text_input,output\n1,2\n0,1\n2,3\n")
    assert _load(str(tmp_path / "b.csv")).training.digest == first.training.digest
    assert _load(str(tmp_path / "c.csv")).training.digest != first.training.digest


def test_fractions(tmp_path: Path) -> None:
    """Fractions split the file; the same seed gives the same examples, another seed others."""
    path = _write(tmp_path / "a.jsonl", _numbers(100))
    settings: dict[str, Any] = {"validation": HeldOut(fraction=0.2), "test": HeldOut(fraction=0.1)}
    first, again, other = _load(path, **settings), _load(path, **settings), _load(path, split_seed=1, **settings)
    assert first == again
    assert first.validation is not None
    assert first.test is not None
    assert other.validation is not None
    assert [len(part.examples) for part in (first.training, first.validation, first.test)] == [70, 20, 10]
    assert first.validation.source == path
    assert first.validation.digest != other.validation.digest


def test_files_of_their_own(tmp_path: Path) -> None:
    """Held-out examples may have files of their own, of another format."""
    path = _write(tmp_path / "a.jsonl", _numbers(100))
    (tmp_path / "b.csv").write_text("text_input,output\nseven,eight\n")
    test = _write(tmp_path / "c.jsonl", _numbers(5, start=500))
    loaded = _load(path, validation=HeldOut(path=str(tmp_path / "b.csv")), test=HeldOut(path=test))
    assert loaded.validation is not None
    assert loaded.test is not None
    assert loaded.validation.examples == (Example("seven", "eight"),)
    assert loaded.validation.source == str(tmp_path / "b.csv")
    assert len(loaded.test.examples) == 5
    assert loaded.warnings == ()


def test_stratification(tmp_path: Path) -> None:
    """Classes keep their shares; cells that cannot be hashed are classes too."""
    rows = [{**row, "kind": ["rare"] if n % 10 == 0 else None} for n, row in enumerate(_numbers(200))]
    path = _write(tmp_path / "a.jsonl", rows)
    loaded = _load(path, stratify_by="kind", validation=HeldOut(fraction=0.2))
    assert loaded.validation is not None
    assert sum(example.text_input.endswith("0") for example in loaded.validation.examples) == 4
    assert loaded.warnings == ()


def test_limit(tmp_path: Path) -> None:
    """A limit shuffles by seed and takes the first; held-out examples are not limited."""
    path = _write(tmp_path / "a.jsonl", _numbers(300))
    some = _load(path, limit=100, validation=HeldOut(fraction=0.1))
    more = _load(path, limit=200, validation=HeldOut(fraction=0.1))
    assert len(some.training.examples) == 100
    assert some.training.examples == more.training.examples[:100]
    assert some.validation == more.validation
    assert some.training.examples != tuple(sorted(some.training.examples, key=lambda each: int(each.text_input)))


def test_limit_beyond_the_rows(tmp_path: Path) -> None:
    """A limit that is more than there is is a warning."""
    path = _write(tmp_path / "a.jsonl", _numbers(120))
    loaded = _load(path, limit=500)
    assert loaded.warnings == (
        f"{path}: dataset.limit=500 is more than the 120 rows to train on; all of them are used",
    )


def test_conversations(tmp_path: Path) -> None:
    """Rows of OpenAI's and Gemini's formats are read without a template of their own, and mixed with plain ones."""
    chat = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    turns = [{"role": "user", "parts": [{"text": "3"}]}, {"role": "model", "parts": [{"text": "4"}]}]
    rows = [{"messages": chat}, {"contents": turns}, {"text_input": "5", "output": "6"}]
    loaded = _load(_write(tmp_path / "a.jsonl", rows))
    assert loaded.training.examples == (Example("1", "2"), Example("3", "4"), Example("5", "6"))
    assert len(loaded.warnings) == 1


def test_conversations_in_parquet(tmp_path: Path) -> None:
    """Parquet's nested columns hold conversations too, with null for every field that a part has not."""
    parts = [{"text": "1", "inlineData": None}, {"text": "!", "inlineData": None}]
    turns = [{"role": "user", "parts": parts}, {"role": "model", "parts": [{"text": "2"}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"contents": turns}]), tmp_path / "a.parquet")
    assert _load(str(tmp_path / "a.parquet")).training.examples == (Example("1!", "2"),)


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Every problem of every file is in one error, each with its line."""
    chat = [{"role": "user", "content": "1"}]
    rows = [
        *_numbers(1),
        {"text_input": None, "output": "2"},
        {"text_input": " ", "output": "2"},
        {"text_input": "1", "output": "x" * 5_001},
        {"text_input": "x" * 40_001, "output": ""},
        {"text_imput": "1", "output": "2"},
        {"messages": chat},
        {"text_input": "\ud800", "output": float("nan")},
        {"text_input": "\ud800", "output": "2"},
    ]
    path = _write(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.csv").write_text("text_input,out\n1,2\n")
    held_out = str(tmp_path / "b.csv")
    guide = "(Gemini API model tuning guide, as last served 2025-04-28)"
    missing = str(tmp_path / "held_out.parquet")
    assert _problems(path, validation=HeldOut(path=held_out), test=HeldOut(path=missing)) == [
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
    broken, blank = _problems(str(path))
    assert broken.startswith(f"{path}:2: broken JSON in column 2: ")
    assert blank == f"{path}:3: text_input is blank after the template; fill in the row or remove it"


def test_no_limits(tmp_path: Path) -> None:
    """Where the backend has no limits, texts may have any length; those of the Gemini API are advice."""
    rows = [*_numbers(100), {"text_input": "x" * 40_001, "output": "y"}, {"text_input": "x", "output": "y" * 5_001}]
    path = _write(tmp_path / "a.jsonl", rows)
    loaded = _load(path, limits=(None, None))
    assert len(loaded.training.examples) == 102
    (advice,) = loaded.warnings
    assert advice.startswith(
        f"{path}:101, {path}:102: longer than the Gemini API takes: 40,000 characters of text_input"
    )


def test_missing_column_without_a_near_name(tmp_path: Path) -> None:
    """Where no column is named alike, the columns are listed."""
    path = _write(tmp_path / "a.jsonl", [{"q": "1", "a": "2"}])
    assert _problems(path) == [
        f"{path}: no row has the column 'output', which template.output names; there are 'q', 'a'",
        f"{path}: no row has the column 'text_input', which template.text_input names; there are 'q', 'a'",
        f'{path}: for its columns write template: {{text_input: "{{{{ q }}}}", output: "{{{{ a }}}}"}}',
    ]


def test_missing_stratify_by(tmp_path: Path) -> None:
    """The column to stratify by has to be there."""
    path = _write(tmp_path / "a.jsonl", [{**row, "label": "x"} for row in _numbers(3)])
    assert _problems(path, stratify_by="labels") == [
        f"{path}: no row has the column 'labels', which dataset.stratify_by names; the nearest is 'label'"
    ]


def test_empty_part(tmp_path: Path) -> None:
    """A fraction that leaves a part empty is refused."""
    path = _write(tmp_path / "a.jsonl", _numbers(4))
    assert _problems(path, validation=HeldOut(fraction=0.1), test=HeldOut(fraction=0.5)) == [
        f"{path}: dataset.validation.fraction=0.1 of 4 rows leaves it empty; raise it, or set dataset.validation.path"
    ]


def test_bytes(tmp_path: Path) -> None:
    """Bytes of Parquet are not text."""
    pyarrow.parquet.write_table(pyarrow.table({"text_input": [b"1"], "output": ["2"]}), tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert _problems(path) == [
        f"{path}: row 1: the cell of 'text_input' holds bytes, and template.text_input uses it; fill it in as text"
    ]


@pytest.mark.parametrize("template", [PLAIN, Template(output="{% if output %}{{ output }}{% endif %}")])
def test_infinity(tmp_path: Path, template: Template) -> None:
    """An infinite number is refused where it is printed; a number that is too large for one is what the file writes."""
    (tmp_path / "a.jsonl").write_text('{"text_input": "1", "output": Infinity, "score": -Infinity}\n')
    path = str(tmp_path / "a.jsonl")
    (problem,) = _problems(path, template=template)
    assert "infinit" in problem
    loaded = _load(path, template=Template(output="{{ text_input }}"))
    assert len(loaded.training.examples) == 1


def test_failing_expression_keeps_the_cell_to_itself(tmp_path: Path) -> None:
    """An expression that fails names the row, and not its content."""
    path = _write(tmp_path / "a.jsonl", [{"text_input": "hunter2", "output": "2"}])
    template = Template(text_input="{{ {'a': 'b'}[text_input] }}")
    assert _problems(path, template=template) == [
        f"{path}:1: template.text_input: 'dict object' has no attribute '...'; correct the template, or this row"
    ]


def test_ten_thousand_bad_rows_are_a_few_lines(tmp_path: Path) -> None:
    """Of one kind of problem five lines are shown, the rest is counted."""
    path = _write(tmp_path / "a.jsonl", [{"text_input": "", "output": "2"}] * 10_000)
    problems = _problems(path)
    assert len(problems) == 5
    assert problems[-1].endswith("(and 9,995 more like this)")


GUIDE = "(Gemini API model tuning guide, as last served 2025-04-28)"


@pytest.mark.parametrize(
    ("count", "advice"),
    [
        (1, [f"1 example to train on; at least 20 are advised {GUIDE}; add more"]),
        (19, [f"19 examples to train on; at least 20 are advised {GUIDE}; add more"]),
        (20, [f"20 examples to train on; 100 to 500 are advised {GUIDE}; add more"]),
        (99, [f"99 examples to train on; 100 to 500 are advised {GUIDE}; add more"]),
        (100, []),
    ],
)
def test_advice_on_the_number(tmp_path: Path, count: int, advice: list[str]) -> None:
    """Too few examples are a warning, the stronger of two."""
    path = _write(tmp_path / "a.jsonl", _numbers(count))
    assert list(_load(path).warnings) == [f"{path}: {line}" for line in advice]


@pytest.mark.slow
def test_advice_on_bytes(tmp_path: Path) -> None:
    """More than 4 MB to train on are a warning, counted in bytes of UTF-8."""
    path = _write(tmp_path / "a.jsonl", [{"text_input": "é" * 21_000 + str(n), "output": "2"} for n in range(100)])
    assert _load(path).warnings == (
        f"{path}: 4.2 MB to train on; the Gemini API takes 4 MB {GUIDE}; dataset.limit cuts it",
    )


def test_repetition(tmp_path: Path) -> None:
    """Exact duplicates and contradictions are one warning each, with the first places."""
    rows = [*_numbers(100), *_numbers(5), {"text_input": "7", "output": "seven"}, {"text_input": "0", "output": "1"}]
    path = _write(tmp_path / "a.jsonl", rows)
    remedy = "keep one, or let the template tell them apart"
    repeated = ", ".join(f"{path}:{n} and {path}:{n + 100}" for n in (1, 2, 3))
    assert _load(path).warnings == (
        f"exact duplicates among the training examples (6): {repeated}, ...; remove them unless they should weigh more",
        f"different outputs for one text_input among the training examples (1): {path}:8 and {path}:106; {remedy}",
    )


def test_duplicates_do_not_leak(tmp_path: Path) -> None:
    """A split never puts equal examples on both sides."""
    path = _write(tmp_path / "a.jsonl", _numbers(60) * 2)
    warnings = _load(path, validation=HeldOut(fraction=0.3)).warnings
    assert not any("held out" in warning for warning in warnings)


def test_leakage(tmp_path: Path) -> None:
    """An example in both the training and the held-out file is a warning with both places."""
    path = _write(tmp_path / "a.jsonl", _numbers(100))
    held_out = _write(tmp_path / "b.jsonl", _numbers(9, start=93))
    warnings = _load(path, test=HeldOut(path=held_out)).warnings
    assert len(warnings) == 5
    line = "have the same input, trained on and held out; remove one of them"
    assert warnings[0] == f"{path}:94 and {held_out}:1 {line}"
    assert warnings[4] == f"{path}:98 and {held_out}:5 {line} (and 2 more like this)"


def test_the_split_is_of_the_rows_and_not_of_the_template(tmp_path: Path) -> None:
    """Another template over the same rows holds the same rows out, and the two sets say so."""
    path = _write(tmp_path / "a.jsonl", [{**row, "id": n} for n, row in enumerate(_numbers(100))])
    held_out = [
        _load(path, template=Template(text_input=text), validation=HeldOut(fraction=0.2)).validation
        for text in ("{{ text_input }}", "Add one to {{ text_input }}", "{{ id }}: {{ text_input }}")
    ]
    one, two, three = [each for each in held_out if each is not None]
    assert [each.output for each in one.examples] == [each.output for each in two.examples]
    assert one.rows == two.rows == three.rows != ""
    assert one.digest != two.digest


def test_an_appended_row_moves_few_rows_of_a_split(tmp_path: Path) -> None:
    """The split of a file that grows stays nearly the same."""
    before = _load(_write(tmp_path / "a.jsonl", _numbers(200)), validation=HeldOut(fraction=0.2)).validation
    after = _load(_write(tmp_path / "b.jsonl", _numbers(201)), validation=HeldOut(fraction=0.2)).validation
    assert before is not None
    assert after is not None
    assert len({*before.examples} ^ {*after.examples}) <= 2


def test_rows_of_one_input_stay_together(tmp_path: Path) -> None:
    """A split makes no leak, whatever the outputs are."""
    rows = [{"text_input": f"{'Q' if n % 2 else 'q'} {n // 2}", "output": str(n)} for n in range(200)]
    loaded = _load(_write(tmp_path / "a.jsonl", rows), validation=HeldOut(fraction=0.3))
    assert "leak" not in {finding.check for finding in loaded.findings}


def test_stratifying_by_a_column_without_repeats(tmp_path: Path) -> None:
    """The refusal says why nothing can be held out, and what to choose."""
    path = _write(tmp_path / "a.jsonl", [{**row, "id": n} for n, row in enumerate(_numbers(50))])
    assert _problems(path, stratify_by="id", validation=HeldOut(fraction=0.2)) == [
        (
            f"{path}: dataset.validation.fraction=0.2 of 50 rows leaves it empty, as 50 of the 50 values of 'id' have one row "
            "each, kept to train on; set dataset.stratify_by=null, or choose a column whose values repeat"
        )
    ]


def test_stratifying_with_some_single_rows(tmp_path: Path) -> None:
    """Values that have one row are named: nothing measures them."""
    rows = [{**row, "kind": "rare" if n == 7 else "often"} for n, row in enumerate(_numbers(200))]
    path = _write(tmp_path / "a.jsonl", rows)
    assert _load(path, stratify_by="kind", validation=HeldOut(fraction=0.2)).warnings == (
        (
            f"{path}: dataset.stratify_by=kind: 1 value has a single row, kept to train on and never measured: 'rare'; "
            "add rows of them, or set dataset.stratify_by=null to hold some out"
        ),
    )


def test_optional_columns(tmp_path: Path) -> None:
    """Rows may lack what the template asks for first; a name that no row has is named."""
    rows = [{"instruction": "Name a color", "output": "red"}, {"instruction": "Add", "input": None, "output": "3"}]
    more = [*rows, {"instruction": "Add", "input": "1 and 2", "output": "3"}]
    template = Template(text_input="{{ instruction }}{% if input %}\n{{ input }}{% endif %}")
    path = _write(tmp_path / "a.jsonl", more)
    examples = _load(path, template=template).training.examples
    assert [each.text_input for each in examples] == ["Name a color", "Add", "Add\n1 and 2"]
    typo = Template(text_input="{{ instruction }}{% if imput %}\n{{ imput }}{% endif %}")
    assert (
        f"{path}: no row has the column 'imput', which template.text_input names where it is optional; "
        "the nearest is 'input'" in _load(path, template=typo).warnings
    )
    assert _problems(path, template=Template(text_input="{{ instruction }} {{ input | upper }}")) == [
        f"{path}:1: the row has no column 'input', which template.text_input names; there are 'instruction', 'output'",
        f"{path}:2: the cell of 'input' is null, and template.text_input uses it; fill it in as text",
    ]


def test_cells_of_every_type_are_rendered_as_by_the_template_itself(tmp_path: Path) -> None:
    """Whole columns are joined where that is all a template does, with the same result."""
    cells = ["é", 1, 2.5, True, False, "1e5", ""]
    rows = [{"text_input": cell, "output": n} for n, cell in enumerate(cells)]
    path = _write(tmp_path / "a.jsonl", rows)
    joined = _load(path, template=Template(text_input="A {{ text_input }}{{ row['output'] }}"))
    single = _load(path, template=Template(text_input="A {% if true %}{{ text_input }}{% endif %}{{ output }}"))
    assert joined.training.examples == single.training.examples
    assert joined.training.examples[3] == Example("A true3", "3")


def test_infinity_is_refused_in_a_whole_column(tmp_path: Path) -> None:
    """Joining columns prints nothing that the template by itself would refuse; the text `inf` is text."""
    pyarrow.parquet.write_table(
        pyarrow.table({"text_input": ["inf", "b"], "output": [1.5, float("inf")]}), tmp_path / "a.parquet"
    )
    (problem,) = _problems(str(tmp_path / "a.parquet"))
    assert "row 2" in problem
    assert "infinity" in problem


def test_unused_columns(tmp_path: Path) -> None:
    """Columns that nothing uses are one warning, however many they are."""
    extra = {f"c{n}": "x" for n in range(12)}
    path = _write(tmp_path / "a.jsonl", [{**row, "label": n, **extra} for n, row in enumerate(_numbers(100))])
    names = ", ".join(f"'c{n}'" for n in range(10))
    assert _load(path, stratify_by="label").warnings == (
        f"{path}: nothing uses the columns {names} and 2 more; name them in the template if they matter",
    )


def test_bad_rows_are_skipped_where_the_config_says_so(tmp_path: Path) -> None:
    """on_bad_row=skip leaves out what cannot be used, with a count and the places, whatever is wrong with a row."""
    path = tmp_path / "a.jsonl"
    good = '{"text_input": "1", "output": "2"}\n'
    path.write_text(good + "{\n" + '{"text_input": "", "output": "2"}\n' + "[]\n" + '{"output": "2"}\n' + good)
    assert len(_problems(str(path))) == 4
    loaded = _load(str(path), on_bad_row="skip")
    assert len(loaded.training.examples) == 2
    count, *lines = loaded.warnings[:5]
    assert count == f"{path}: 4 rows are skipped (dataset.on_bad_row=skip)"
    assert {line.removeprefix(f"{path}:")[0] for line in lines} == {"2", "3", "4", "5"}


def test_rows_without_a_class_are_skipped(tmp_path: Path) -> None:
    """A row that lacks the column to stratify by is left out with the other bad rows, not put into a class."""
    rows = [{**row, "label": n % 2} for n, row in enumerate(_numbers(10))]
    del rows[3]["label"]
    path = _write(tmp_path / "a.jsonl", rows)
    loaded = _load(path, stratify_by="label", on_bad_row="skip", validation=HeldOut(fraction=0.4))
    assert loaded.validation is not None
    texts = {each.text_input for each in (*loaded.training.examples, *loaded.validation.examples)}
    assert texts == {str(n) for n in range(10) if n != 3}


def test_problems_of_the_file_are_not_skipped(tmp_path: Path) -> None:
    """on_bad_row=skip still refuses a file without a column that is needed, and one without any good row."""
    no_column = _write(tmp_path / "a.jsonl", [{"text_input": "1"}])
    assert _problems(no_column, on_bad_row="skip")[0].startswith(f"{no_column}: no row has the column 'output'")
    all_bad = _write(tmp_path / "b.jsonl", [{"text_input": "", "output": "2"}])
    assert _problems(all_bad, on_bad_row="skip")[0].startswith(f"{all_bad}:1: text_input is blank")
