"""The choice of the training rows in a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.experiments import write_rows
from tunerun.dataset import LoadedDataset, load_examples
from tunerun.schema import DatasetSection, HeldOut, Template
from tunerun.template import PromptTemplate

ROWS = st.lists(st.sampled_from(["a", "A ", "b", "c", "d", "e", "f", "g", "h", "i"]), min_size=4, max_size=24)


def load(path: Path, draws: int, template: str = "{{ text_input }}", **dataset: Any) -> LoadedDataset:
    return load_examples(
        DatasetSection(path=str(path), **dataset),
        PromptTemplate(Template(text_input=template)),
        max_input_characters=None,
        max_output_characters=None,
        draws=draws,
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=ROWS, seed=st.integers(0, 50), draws=st.integers(0, 30))
def test_no_drawn_row_is_held_out(tmp_path: Path, texts: list[str], seed: int, draws: int) -> None:
    """Drawn examples are training rows with different inputs, none of which is held out under other case or spaces."""
    rows = write_rows(tmp_path / "rows.jsonl", [{"text_input": t, "output": str(n)} for n, t in enumerate(texts)])
    held = write_rows(tmp_path / "held.jsonl", [{"text_input": t, "output": "x"} for t in ("a", "B", "q")])
    test = write_rows(tmp_path / "test.jsonl", [{"text_input": " C", "output": "x"}])
    loaded = load(rows, draws, validation=HeldOut(path=str(held)), test=HeldOut(path=str(test)), split_seed=seed)
    inputs = [" ".join(example.text_input.casefold().split()) for example in loaded.drawn]
    assert len(set(inputs)) == len(inputs) <= draws
    assert not {"a", "b", "c"} & set(inputs)
    assert set(loaded.drawn) <= set(loaded.training.examples)
    left = {text.casefold().strip() for text in texts} - {"a", "b", "c"}
    assert len(inputs) == min(draws, len(left))


def test_the_draw_is_that_of_a_limit(tmp_path: Path) -> None:
    """The first k drawn are the rows of `dataset.limit: k`, for every limit above it and every template."""
    rows = [{"text_input": f"row {n}", "output": str(n)} for n in range(40)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    split: dict[str, Any] = {"validation": HeldOut(fraction=0.25), "test": HeldOut(fraction=0.25), "split_seed": 3}
    drawn = load(path, 6, **split).drawn
    assert drawn == load(path, 0, limit=6, **split).training.examples
    assert drawn[:4] == load(path, 4, limit=9, **split).drawn
    rendered = load(path, 6, "Q: {{ text_input }}", **split).drawn
    assert [example.output for example in rendered] == [example.output for example in drawn]
    assert rendered[0].text_input == f"Q: {drawn[0].text_input}"


def test_another_seed_draws_other_rows(tmp_path: Path) -> None:
    """The draw follows from `dataset.split_seed`, and not from the order of the file."""
    rows = [{"text_input": f"row {n}", "output": str(n)} for n in range(40)]
    path, turned = write_rows(tmp_path / "rows.jsonl", rows), write_rows(tmp_path / "turned.jsonl", rows[::-1])
    assert load(path, 4).drawn == load(turned, 4).drawn
    assert load(path, 4).drawn != load(path, 4, split_seed=1).drawn
