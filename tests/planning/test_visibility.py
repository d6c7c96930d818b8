"""A plan says which differences its held-out examples can show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments import planned, write_rows
from tunerun.statistics import rows_needed


@pytest.mark.parametrize(
    ("more", "points"),
    [((), 1), (("seed=0,1,2",), 1), (("hyperparameters.epoch_count=1,2,3,4", "seed=0,1"), 4)],
)
def test_a_plan_says_what_its_held_out_examples_can_show(tmp_path: Path, more: tuple[str, ...], points: int) -> None:
    """Trials that differ in their seed alone are one point; ten rows show nothing, and the sentence says so."""
    shown = planned(tmp_path, *more).visibility
    assert shown is not None
    assert (shown.rows, shown.points, shown.baselines, shown.smallest) == (10, points, 3, None)
    assert str(shown).startswith("10 held-out examples show no difference ")
    assert f" to {rows_needed(0.05, 0.225, comparisons=3 * points):,}." in str(shown)


def test_more_rows_show_smaller_differences(tmp_path: Path) -> None:
    """By Connor's formula, for unrelated errors and for half related ones."""
    shown = planned(tmp_path, *_many_rows(tmp_path, 100)).visibility
    assert str(shown) == (
        "100 held-out examples show differences of about 26 percentage points or more, or 22 percentage points or more "
        "if the models err on related examples, in the 12 comparisons of points with baselines (power 80 %). "
        "To show 5 percentage points, hold out about 1,509 to 2,746."
    )


def test_rows_that_belong_together_show_less(tmp_path: Path) -> None:
    """100 rows of 20 customers are 20 facts; the sentence names both numbers, the document the clusters."""
    together = planned(tmp_path, *_many_rows(tmp_path, 100), "dataset.cluster_by=customer")
    alone = planned(tmp_path, *_many_rows(tmp_path, 20))
    assert together.visibility is not None
    assert alone.visibility is not None
    assert together.visibility.smallest == alone.visibility.smallest
    assert str(together.visibility).startswith("100 held-out examples (20 clusters of examples that belong together)")
    (labels,) = together.document["clusters"].values()
    assert labels == [n // 5 for n in range(100)]
    assert alone.document["clusters"] == {}


@pytest.mark.parametrize(("worth", "says"), [(0.0, False), (0.05, False), (0.01, True)])
def test_equality_that_is_out_of_reach(tmp_path: Path, worth: float, says: bool) -> None:
    """Where a worth is set, a plan says how many rows can call two models equal, if there are fewer."""
    shown = planned(tmp_path, *_many_rows(tmp_path, 100), f"evaluation.worth={worth}").visibility
    assert ("They can call nothing equal within 1 percentage point: that takes 268 at least." in str(shown)) is says


def _many_rows(folder: Path, count: int) -> list[str]:
    rows = [{"text_input": f"row {n}", "output": str(n), "customer": f"c{n // 5}"} for n in range(count)]
    file = write_rows(folder / f"many-{count}.jsonl", rows)
    return [f"dataset.validation.path={file}", "hyperparameters.epoch_count=1,2,3,4"]


@pytest.mark.parametrize("without", ["dataset.validation.path=null", "evaluation=none"])
def test_a_plan_without_measurements_has_no_note_on_differences(tmp_path: Path, without: str) -> None:
    """No rows are held out, or no metric needs answers."""
    made = planned(tmp_path, without)
    assert made.visibility is None
    assert made.to_json()["smallest_visible"] is None
