"""Trials that differ in their seed alone are one point."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.experiments import overrides as typed
from tests.experiments import planned
from tunerun.cli.plan_tables import plan_table
from tunerun.compose import load
from tunerun.errors import ConfigError
from tunerun.planning import plan
from tunerun.replicates import point_numbers, without_seed
from tunerun.schema import Experiment, Sweep

RATE = "hyperparameters.learning_rate"
OVERRIDES = st.lists(
    st.fixed_dictionaries({"seed": st.integers(0, 3)}, optional={"a": st.integers(0, 2), "b": st.booleans()}),
    max_size=12,
)


@given(OVERRIDES)
def test_points_are_numbered_in_the_order_of_their_first_trials(trials: list[dict[str, int]]) -> None:
    """Two trials share a number exactly if they set the same without the seed, and new numbers count up from 0."""
    numbers = point_numbers(trials)
    same = [[without_seed(one) == without_seed(other) for other in trials] for one in trials]
    assert [[one == other for other in numbers] for one in numbers] == same
    assert list(dict.fromkeys(numbers)) == list(range(len(set(numbers))))


def test_values_that_python_calls_equal_are_different_points() -> None:
    """The texts of 1, 1.0 and true differ, and so do their points; the order of keys makes no point."""
    assert point_numbers([{"a": 1}, {"a": 1.0}, {"a": True}]) == [0, 1, 2]
    assert point_numbers([{"a": 1, "b": 2}, {"b": 2, "a": 1}]) == [0, 0]


def test_replicates_are_seeds(tmp_path: Path) -> None:
    """`sweep.replicates: 3` gives every point the seeds that follow the experiment's own, and the seed turns fastest."""
    made = planned(tmp_path, "sweep.replicates=3", "seed=7", f"{RATE}=0.001,0.002")
    assert [trial.config.seed for trial in made.trials] == [7, 8, 9, 7, 8, 9]
    assert [trial.point for trial in made.trials] == [0, 0, 0, 1, 1, 1]
    assert [trial["point"] for trial in made.to_json()["trials"]] == [0, 0, 0, 1, 1, 1]
    spelled_out = planned(tmp_path, f"{RATE}=0.001,0.002", "seed=7,8,9")
    assert [trial.key for trial in made.trials] == [trial.key for trial in spelled_out.trials]


def test_one_replicate_sets_no_axis(tmp_path: Path) -> None:
    """The default leaves the trials as they are."""
    assert [dict(trial.overrides) for trial in planned(tmp_path, "sweep.replicates=1").trials] == [{}]


@pytest.mark.parametrize("swept", ["seed=1,2", "sweep.axes={seed: [1, 2]}"])
def test_replicates_beside_a_swept_seed_are_refused(tmp_path: Path, swept: str) -> None:
    """Two ways to give the seeds contradict each other; the message names both."""
    with pytest.raises(ConfigError, match=r"sweep\.replicates: is 3, and seed is swept.*remove one of the two"):
        load(typed(tmp_path, "sweep.replicates=3", swept))


def test_replicates_need_a_load(tmp_path: Path) -> None:
    """An experiment made by hand has no points for its replicates, and a plan says so."""
    made = load(typed(tmp_path))
    sections = {name: getattr(made, name) for name in Experiment.model_fields if name not in ("sweep", "points")}
    with pytest.raises(ConfigError, match=r"sweep\.replicates"):
        plan(Experiment(**sections, sweep=Sweep(replicates=2)))


def test_the_frozen_document_says_which_held_out_sets_have_the_same_rows(tmp_path: Path) -> None:
    """Templates change the texts of the held-out rows and not the rows; another split_seed changes the rows."""
    split = "dataset.validation={path: null, fraction: 0.2}"
    templates = planned(tmp_path, split, "template.text_input='{{text_input}}','Q: {{text_input}}'")
    rows = templates.document["held_out_rows"]
    assert len(rows) == 2
    assert len(set(rows.values())) == 1
    assert set(rows) == {trial.validation.digest for trial in templates.trials if trial.validation}
    seeds = planned(tmp_path, split, "dataset.split_seed=0,1").document["held_out_rows"]
    assert len(set(seeds.values())) == 2


def test_the_plans_table_numbers_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where points have several seeds, the table counts both and shows each trial's point."""
    plan_table(planned(tmp_path, "sweep.replicates=2", f"{RATE}=0.001,0.002"))
    printed = capsys.readouterr().out
    assert "4 trials (2 points)" in printed
    assert printed.splitlines()[2].split()[:2] == ["trial", "point"]


def test_an_experiments_replicates_are_overridden_as_any_other_value(tmp_path: Path) -> None:
    """A count of replicates that a YAML sets can be typed over."""
    experiment = tmp_path / "conf/experiment/three.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nname: three\nsweep: {replicates: 3}\n")
    counts = [
        len(load(["experiment=three", *typed(tmp_path, *more)], str(tmp_path / "conf")).points)
        for more in ((), ("sweep.replicates=2",), (f"{RATE}=0.001,0.002", "sweep.replicates=1"))
    ]
    assert counts == [3, 2, 2]
