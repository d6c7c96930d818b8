"""Names of runs and values."""

from __future__ import annotations

import pytest

from tests.tracking.sweeps import trial_config
from tunerun.job import Scalar
from tunerun.tracking.naming import metric_key, override_line, run_name, short_value

CONFIG = trial_config({}).model_dump(mode="json")


def test_a_run_is_named_by_its_number_and_what_varies() -> None:
    """Numbers have the width of the sweep, so that names sort."""
    overrides = {"hyperparameters.learning_rate": 0.0001, "hyperparameters.epoch_count": 5}
    assert run_name(5, 24, list(overrides), overrides, CONFIG) == "t05 lr=0.0001 ep=5"


def test_a_group_and_a_path_are_named_by_what_tells_them_apart() -> None:
    """A template, a model and a file show their own name."""
    overrides = {"template": "short", "model.name": "tiny", "dataset.path": "data/much/rows.jsonl"}
    assert run_name(0, 2, list(overrides), overrides, CONFIG) == "t0 tpl=short model=tiny data=rows"


def test_a_single_trial_is_named_by_learning_rate_and_epochs() -> None:
    """Where nothing varies the name still says something."""
    assert run_name(0, 1, [], {}, CONFIG) == "t0 lr=0.001 ep=5"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-05, "1e-5"), (0.0001, "0.0001"), (2.5e20, "2.5e20"), (True, "true"), ("a" * 20, "a" * 11 + "…"), (16.0, "16")],
)
def test_values_are_short(value: Scalar, text: str) -> None:
    """A value has its shortest form and at most 12 characters."""
    assert short_value(value) == text


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (None, "k=null"),
        (False, "k=false"),
        (0.5, "k=0.5"),
        ("plain/a.b", "k=plain/a.b"),
        ("it's {x}", r"k='it\'s {x}'"),
    ],
)
def test_an_override_can_be_typed_again(value: Scalar, line: str) -> None:
    """Values that are not a plain word are quoted in Hydra's grammar."""
    assert override_line("k", value) == line


def test_metric_names_keep_to_what_mlflow_takes() -> None:
    """Characters that MLflow refuses are replaced."""
    assert metric_key("eval/hit@3") == "eval/hit_at_3"
    assert metric_key("a=b[1]") == "a_b_1_"
