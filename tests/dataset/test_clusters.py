"""Rows that belong together: by a column, by their input, or because they are nearly the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.dataset.files import load, written
from tunerun.dataset import LoadedDataset
from tunerun.errors import DatasetError
from tunerun.schema import HeldOut

LONG = "My card was charged twice for the same cup of coffee yesterday"


def _load(
    folder: Path, held_out: Sequence[dict[str, Any]] | None, rows: Sequence[dict[str, Any]], **more: Any
) -> LoadedDataset:
    if held_out is not None:
        more["validation"] = HeldOut(path=written(folder / "held_out.jsonl", held_out))
    return load(written(folder / "rows.jsonl", rows), **more)


def _rows(inputs: Sequence[str], customers: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    owners = customers or [str(n) for n in range(len(inputs))]
    return [{"text_input": text, "output": "x", "customer": each} for text, each in zip(inputs, owners, strict=True)]


TRAINING = _rows(["one", "two"])


@pytest.mark.parametrize(
    ("rows", "column", "labels"),
    [
        (_rows(["a", "b", "c"]), None, ()),
        (_rows(["a", "b", " A "]), None, (0, 1, 0)),
        (_rows([LONG, "b", LONG + "s"]), None, (0, 1, 0)),
        (_rows(["a", "b", "c", "d"], ["x", "y", "x", "y"]), "customer", (0, 1, 0, 1)),
        (_rows(["a", "b", "c", "d"], [["x"], ["y"], ["x"], ["z"]]), "customer", (0, 1, 0, 2)),
        # The column joins the first two, an equal input the second and the third: all three are one cluster.
        (_rows(["a", "b", "b", "d"], ["x", "x", "y", "z"]), "customer", (0, 0, 0, 1)),
    ],
)
def test_clusters(tmp_path: Path, rows: list[dict[str, Any]], column: str | None, labels: tuple[int, ...]) -> None:
    """Equal inputs, near duplicates and rows of one value are one cluster; where all rows are their own, none is named."""
    loaded = _load(tmp_path, rows, TRAINING, cluster_by=column)
    assert loaded.validation is not None
    assert loaded.validation.clusters == labels


def test_a_split_parts_no_cluster(tmp_path: Path) -> None:
    """Rows of one customer are all trained on or all held out, and the held-out ones carry their clusters."""
    rows = _rows([f"row {n}" for n in range(60)], [f"c{n % 12}" for n in range(60)])
    loaded = _load(tmp_path, None, rows, validation=HeldOut(fraction=0.3), cluster_by="customer")
    customer = {row["text_input"]: row["customer"] for row in rows}
    assert loaded.validation is not None
    trained, held_out = (
        {customer[example.text_input] for example in part.examples} for part in (loaded.training, loaded.validation)
    )
    assert held_out
    assert not trained & held_out
    assert len(set(loaded.validation.clusters)) == len(held_out)


def test_the_column_is_needed_where_rows_are_held_out(tmp_path: Path) -> None:
    """A held-out file without the column is refused; the training file needs none if nothing is split off it."""
    plain = [{"text_input": "a", "output": "x"}]
    with pytest.raises(DatasetError, match=r"held_out.jsonl.*customer.*dataset\.cluster_by"):
        _load(tmp_path, plain, TRAINING, cluster_by="customer")
    loaded = _load(tmp_path, _rows(["a", "b"], ["x", "x"]), plain, cluster_by="customer")
    assert loaded.validation is not None
    assert loaded.validation.clusters == (0, 0)
