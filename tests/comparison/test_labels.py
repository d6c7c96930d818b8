"""A point in words."""

from __future__ import annotations

import pytest

from tunerun.comparison.labels import compact, label, short_names
from tunerun.job import Scalar


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, ""),
        ({"hyperparameters.learning_rate": 0.001, "hyperparameters.epoch_count": 5}, "learning_rate 0.001, 5 epochs"),
        ({"hyperparameters.epoch_count": 1}, "1 epoch"),
        ({"dataset.limit": 1200, "template": "plain"}, "1,200 examples, template plain"),
        ({"dataset.limit": None}, "all examples"),
        ({"hyperparameters.learning_rate_multiplier": None}, "learning_rate_multiplier null"),
        ({"dataset.deduplicate": True}, "deduplicate true"),
        ({"template.text_input": "Q:\n {{ question }}"}, "text_input Q: {{ question }}"),
        ({"template.text_input": "x" * 50}, f"text_input {'x' * 37}..."),
        ({"a.path": "one", "b.path": "two"}, "a.path one, b.path two"),
    ],
)
def test_a_point_is_called_by_what_it_sets(overrides: dict[str, Scalar], words: str) -> None:
    """Keys lose their sections where no two then have one name; counts have their noun; a value is one line."""
    assert label(overrides) == words


def test_a_point_has_a_compact_label() -> None:
    """It has the form key=value, for progress bars and run lists."""
    assert compact({"hyperparameters.epoch_count": 5, "seed": 2}) == "epoch_count=5 seed=2"
    assert short_names(["a.x", "b.y"]) == {"a.x": "x", "b.y": "y"}
