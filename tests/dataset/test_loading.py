"""From a dataset's config to example sets: what is trained on and what is held out."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from tests.dataset.files import load, numbers, problems_of, written
from tunerun.examples import Example
from tunerun.schema import HeldOut, Template


def test_order_and_digest(tmp_path: Path) -> None:
    """Without a limit the file's order is kept, and the digest is of the examples' canonical JSON."""
    path = written(tmp_path / "a.jsonl", [{"text_input": "é", "output": "1"}, {"text_input": "a", "output": "2"}])
    loaded = load(path)
    assert loaded.training.examples == (Example("é", "1"), Example("a", "2"))
    assert loaded.training.source == path
    canonical = '[{"output":"1","text_input":"é"},{"output":"2","text_input":"a"}]'
    assert loaded.training.digest == hashlib.sha256(canonical.encode()).hexdigest()
    assert (loaded.validation, loaded.test) == (None, None)


def test_digest_is_of_the_examples_alone(tmp_path: Path) -> None:
    """Another format or other columns that give the same examples give the same digest; another order does not."""
    first = load(written(tmp_path / "a.jsonl", numbers(3)))
    (tmp_path / "b.csv").write_text("n,text_input,output\na,0,1\nb,1,2\nc,2,3\n")
    (tmp_path / "c.csv").write_text("text_input,output\n1,2\n0,1\n2,3\n")
    assert load(str(tmp_path / "b.csv")).training.digest == first.training.digest
    assert load(str(tmp_path / "c.csv")).training.digest != first.training.digest


def test_conversations(tmp_path: Path) -> None:
    """Rows of OpenAI's and Gemini's formats are read without a template of their own, and mixed with plain ones."""
    chat = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    turns = [{"role": "user", "parts": [{"text": "3"}]}, {"role": "model", "parts": [{"text": "4"}]}]
    rows = [{"messages": chat}, {"contents": turns}, {"text_input": "5", "output": "6"}]
    loaded = load(written(tmp_path / "a.jsonl", rows))
    assert loaded.training.examples == (Example("1", "2"), Example("3", "4"), Example("5", "6"))
    assert len(loaded.warnings) == 1


def test_conversations_in_parquet(tmp_path: Path) -> None:
    """Parquet's nested columns hold conversations too, with null for every field that a part has not."""
    parts = [{"text": "1", "inlineData": None}, {"text": "!", "inlineData": None}]
    turns = [{"role": "user", "parts": parts}, {"role": "model", "parts": [{"text": "2"}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"contents": turns}]), tmp_path / "a.parquet")
    assert load(str(tmp_path / "a.parquet")).training.examples == (Example("1!", "2"),)


def test_optional_columns(tmp_path: Path) -> None:
    """Rows may lack what the template asks for first; a name that no row has is named."""
    rows = [{"instruction": "Name a color", "output": "red"}, {"instruction": "Add", "input": None, "output": "3"}]
    more = [*rows, {"instruction": "Add", "input": "1 and 2", "output": "3"}]
    template = Template(text_input="{{ instruction }}{% if input %}\n{{ input }}{% endif %}")
    path = written(tmp_path / "a.jsonl", more)
    examples = load(path, template=template).training.examples
    assert [each.text_input for each in examples] == ["Name a color", "Add", "Add\n1 and 2"]
    typo = Template(text_input="{{ instruction }}{% if imput %}\n{{ imput }}{% endif %}")
    assert (
        f"{path}: no row has the column 'imput', which template.text_input names where it is optional; "
        "the nearest is 'input'" in load(path, template=typo).warnings
    )
    assert problems_of(path, template=Template(text_input="{{ instruction }} {{ input | upper }}")) == [
        f"{path}:1: the row has no column 'input', which template.text_input names; there are 'instruction', 'output'",
        f"{path}:2: the cell of 'input' is null, and template.text_input uses it; fill it in as text",
    ]


def test_cells_of_every_type_are_rendered_as_by_the_template_itself(tmp_path: Path) -> None:
    """Whole columns are joined where that is all a template does, with the same result."""
    cells = ["é", 1, 2.5, True, False, "1e5", ""]
    rows = [{"text_input": cell, "output": n} for n, cell in enumerate(cells)]
    path = written(tmp_path / "a.jsonl", rows)
    joined = load(path, template=Template(text_input="A {{ text_input }}{{ row['output'] }}"))
    single = load(path, template=Template(text_input="A {% if true %}{{ text_input }}{% endif %}{{ output }}"))
    assert joined.training.examples == single.training.examples
    assert joined.training.examples[3] == Example("A true3", "3")


def test_files_of_their_own(tmp_path: Path) -> None:
    """Held-out examples may have files of their own, of another format."""
    path = written(tmp_path / "a.jsonl", numbers(100))
    (tmp_path / "b.csv").write_text("text_input,output\nseven,eight\n")
    test = written(tmp_path / "c.jsonl", numbers(5, start=500))
    loaded = load(path, validation=HeldOut(path=str(tmp_path / "b.csv")), test=HeldOut(path=test))
    assert loaded.validation is not None
    assert loaded.test is not None
    assert loaded.validation.examples == (Example("seven", "eight"),)
    assert loaded.validation.source == str(tmp_path / "b.csv")
    assert len(loaded.test.examples) == 5
    assert loaded.warnings == ()


def test_fractions(tmp_path: Path) -> None:
    """Fractions split the file; the same seed gives the same examples, another seed others."""
    path = written(tmp_path / "a.jsonl", numbers(100))
    settings: dict[str, Any] = {"validation": HeldOut(fraction=0.2), "test": HeldOut(fraction=0.1)}
    first, again, other = load(path, **settings), load(path, **settings), load(path, split_seed=1, **settings)
    assert first == again
    assert first.validation is not None
    assert first.test is not None
    assert other.validation is not None
    assert [len(part.examples) for part in (first.training, first.validation, first.test)] == [70, 20, 10]
    assert first.validation.source == path
    assert first.validation.digest != other.validation.digest


def test_stratification(tmp_path: Path) -> None:
    """Classes keep their shares; cells that cannot be hashed are classes too."""
    rows = [{**row, "kind": ["rare"] if n % 10 == 0 else None} for n, row in enumerate(numbers(200))]
    path = written(tmp_path / "a.jsonl", rows)
    loaded = load(path, stratify_by="kind", validation=HeldOut(fraction=0.2))
    assert loaded.validation is not None
    assert sum(example.text_input.endswith("0") for example in loaded.validation.examples) == 4
    assert loaded.warnings == ()


def test_rows_of_one_input_stay_together(tmp_path: Path) -> None:
    """A split makes no leak, whatever the outputs are."""
    rows = [{"text_input": f"{'Q' if n % 2 else 'q'} {n // 2}", "output": str(n)} for n in range(200)]
    loaded = load(written(tmp_path / "a.jsonl", rows), validation=HeldOut(fraction=0.3))
    assert "leak" not in {finding.check for finding in loaded.findings}


def test_the_split_is_of_the_rows_and_not_of_the_template(tmp_path: Path) -> None:
    """Another template over the same rows holds the same rows out, and the two sets say so."""
    path = written(tmp_path / "a.jsonl", [{**row, "id": n} for n, row in enumerate(numbers(100))])
    held_out = [
        load(path, template=Template(text_input=text), validation=HeldOut(fraction=0.2)).validation
        for text in ("{{ text_input }}", "Add one to {{ text_input }}", "{{ id }}: {{ text_input }}")
    ]
    one, two, three = [each for each in held_out if each is not None]
    assert [each.output for each in one.examples] == [each.output for each in two.examples]
    assert one.rows == two.rows == three.rows != ""
    assert one.digest != two.digest


def test_an_appended_row_moves_few_rows_of_a_split(tmp_path: Path) -> None:
    """The split of a file that grows stays nearly the same."""
    before = load(written(tmp_path / "a.jsonl", numbers(200)), validation=HeldOut(fraction=0.2)).validation
    after = load(written(tmp_path / "b.jsonl", numbers(201)), validation=HeldOut(fraction=0.2)).validation
    assert before is not None
    assert after is not None
    assert len({*before.examples} ^ {*after.examples}) <= 2


def test_limit(tmp_path: Path) -> None:
    """A limit shuffles by seed and takes the first; held-out examples are not limited."""
    path = written(tmp_path / "a.jsonl", numbers(300))
    some = load(path, limit=100, validation=HeldOut(fraction=0.1))
    more = load(path, limit=200, validation=HeldOut(fraction=0.1))
    assert len(some.training.examples) == 100
    assert some.training.examples == more.training.examples[:100]
    assert some.validation == more.validation
    assert some.training.examples != tuple(sorted(some.training.examples, key=lambda each: int(each.text_input)))
