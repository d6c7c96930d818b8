"""Examples that are longer than the base model takes are bad rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.dataset.files import load, written
from tunerun.dataset import LoadedDataset, TokenLimit
from tunerun.errors import DatasetError
from tunerun.examples import Example

ROWS = [{"text_input": "a " * count, "output": "b"} for count in (3, 40, 5, 20)]


def words(examples: Sequence[Example]) -> list[int]:
    """Count as a tokenizer would: a token a word, and two of the chat format."""
    return [2 + len(f"{example.text_input} {example.output}".split()) for example in examples]


def load_rows(folder: Path, limit: TokenLimit, **dataset: Any) -> LoadedDataset:
    written(folder / "rows.jsonl", ROWS)
    return load("rows.jsonl", tokens=limit, **dataset)


def test_long_rows_are_refused_with_places(tmp_path: Path) -> None:
    """Each row that does not fit is named with its tokens and what would fit."""
    with pytest.raises(DatasetError) as refused:
        load_rows(tmp_path, TokenLimit(22, exact=True, count_all=words))
    assert list(refused.value.problems) == [
        "rows.jsonl:2: 43 tokens, and the base model takes 22; shorten the row or the template",
        "rows.jsonl:4: 23 tokens, and the base model takes 22; shorten the row or the template",
    ]


def test_long_rows_are_skipped_where_the_config_says_so(tmp_path: Path) -> None:
    """With on_bad_row=skip they are left out, counted and named; held-out rows as well."""
    loaded = load_rows(
        tmp_path, TokenLimit(22, exact=True, count_all=words), on_bad_row="skip", validation={"path": "rows.jsonl"}
    )
    assert len(loaded.training.examples) == 2
    assert loaded.validation is not None
    assert len(loaded.validation.examples) == 2
    assert "rows.jsonl: 2 rows are skipped (dataset.on_bad_row=skip)" in loaded.warnings


def test_estimate_only_warns(tmp_path: Path) -> None:
    """Where tokens are estimated the rows stay, and a warning names them."""
    loaded = load_rows(tmp_path, TokenLimit(22, exact=False, count_all=words))
    assert len(loaded.training.examples) == 4
    assert [line for line in loaded.warnings if "about 43 tokens, and the base model takes 22" in line]


def test_short_rows_are_not_counted(tmp_path: Path) -> None:
    """A row with fewer bytes than the base model takes tokens needs no tokenizer."""
    counted: list[int] = []

    def count(examples: Sequence[Example]) -> list[int]:
        counted.append(len(examples))
        return words(examples)

    load_rows(tmp_path, TokenLimit(1000, exact=True, count_all=count))
    assert counted == [1]  # the chat format's own
    load_rows(tmp_path, TokenLimit(80, exact=True, count_all=count))
    assert counted == [1, 1, 1]
