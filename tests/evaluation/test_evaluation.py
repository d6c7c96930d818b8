"""Metrics, and the reading of loss curves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunerun.evaluation.curve import MIN_EPOCHS, Shape, advise, epoch_means
from tunerun.evaluation.metrics import measure
from tunerun.job import Example, Snapshot
from tunerun.ledger import Answers, TrialRecord

TRIAL = TrialRecord(0, "k", (), "a", "d", {}, 1, 1, {}, {"evaluation": {"metrics": ["exact_match", "later_metric"]}})


def test_an_evaluation_has_the_share_and_every_prediction() -> None:
    """Two of three right is two thirds, and each answer is kept beside what it should be."""
    examples = [Example("1", "2"), Example("2", "3"), Example("3", "4")]
    evaluation = measure(TRIAL, examples, Answers(("2", "3", "5"), 1.0))
    assert evaluation.metrics == {"eval/exact_match": pytest.approx(2 / 3)}
    assert [(p.expected, p.predicted, p.exact_match) for p in evaluation.predictions][2] == ("4", "5", False)


def test_fewer_answers_than_examples_are_an_error() -> None:
    """A lost answer is never scored as something else."""
    with pytest.raises(ValueError, match="zip"):
        measure(TRIAL, [Example("1", "2"), Example("2", "3")], Answers(("2",), 1.0))


@pytest.mark.parametrize(
    ("losses", "shape", "flat_after"),
    [
        ([2.0, 1.0], Shape.SHORT, None),
        ([2.0, 0.5, 0.11, 0.10, 0.10], Shape.FLAT, 3),
        ([2.0, 0.1, 0.1, 0.1, 0.1], Shape.FLAT, 2),
        ([2.0, 1.5, 1.0, 0.5], Shape.FALLING, None),
        ([2.0, 0.5, 1.5], Shape.UNSTABLE, None),
        ([1.0, 2.0, 3.0], Shape.UNSTABLE, None),
        ([1.0, 1.0, 1.0], Shape.UNSTABLE, None),
        ([2.0, math.nan, 1.0], Shape.UNSTABLE, None),
    ],
)
def test_the_rule_reads_curves_as_a_person_would(losses: list[float], shape: Shape, flat_after: int | None) -> None:
    """Short, flat, falling and unstable curves are told apart."""
    advice = advise(losses)
    assert (advice.shape, advice.flat_after) == (shape, flat_after)


@given(st.lists(st.floats(0.01, 100), min_size=MIN_EPOCHS, max_size=20), st.floats(0.1, 10))
def test_advice_does_not_depend_on_the_unit_of_the_loss(losses: list[float], unit: float) -> None:
    """A curve in other units gets the same advice, but where rounding moves it across a threshold."""
    fall = losses[0] - min(losses)
    margins = (
        [abs((a - b) / fall - share) for a in losses for b in losses for share in (1 / 5, 1 / 20)] if fall else [1]
    )
    if min(margins) > 1e-9:
        assert advise([loss * unit for loss in losses]) == advise(losses)


@given(st.lists(st.floats(0.01, 100), min_size=MIN_EPOCHS, max_size=20))
def test_a_flat_curve_loses_nothing_by_stopping_there(losses: list[float]) -> None:
    """Where the rule says that fewer epochs give the same, no later epoch is much better."""
    advice = advise(losses)
    if advice.flat_after is not None:
        assert losses[advice.flat_after - 1] - min(losses) <= (losses[0] - min(losses)) / 20 + 1e-9


def test_an_epochs_loss_is_the_mean_of_its_steps() -> None:
    """Each epoch is averaged over its steps, in order."""
    snapshots = [Snapshot(1, 1, 4.0, 0), Snapshot(2, 1, 2.0, 0), Snapshot(3, 2, 1.0, 0)]
    assert epoch_means(snapshots) == [3.0, 1.0]
