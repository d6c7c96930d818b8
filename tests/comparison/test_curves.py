"""The reading of loss curves: a rule for each shape."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunerun.comparison.curves import MIN_EPOCHS, Shape, advise, epoch_means
from tunerun.job import EpochLoss, Snapshot

FALLS = [2.0, 1.0, 0.5, 0.25, 0.12]

LOSSES = st.lists(st.floats(0.01, 100), min_size=MIN_EPOCHS, max_size=12)


def by_epoch(losses: list[float]) -> list[EpochLoss]:
    return [EpochLoss(epoch, loss) for epoch, loss in enumerate(losses, start=1)]


@pytest.mark.parametrize(
    ("losses", "shape", "after"),
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
def test_a_training_curve_alone(losses: list[float], shape: Shape, after: int | None) -> None:
    """Short, flat, falling and unstable training curves are distinguished without a validation loss."""
    advice = advise(losses)
    assert (advice.shape, advice.after) == (shape, after)


@pytest.mark.parametrize(
    ("training", "held_out", "shape", "after"),
    [
        (FALLS[:2], [1.0, 2.0], Shape.SHORT, None),
        (FALLS, [1.5, 1.0, 0.9, 1.1, 1.3], Shape.OVERFITTING, 3),
        (FALLS, [1.0, 1.1, 1.2, 1.3, 1.4], Shape.OVERFITTING, 1),
        (FALLS, [1.5, 0.9, 0.9, 1.1, 1.3], Shape.OVERFITTING, 2),  # of equal ones the earlier
        (FALLS, [1.5, 1.0, 0.9, 0.91, 0.92], Shape.FLAT, 3),  # a rise of less than a twentieth is none
        (FALLS, [1.5, 1.0, 0.5, 0.4, 0.39], Shape.FLAT, 4),
        (FALLS, [1.0, 1.0, 1.0, 1.0, 1.0], Shape.FLAT, 1),
        (FALLS, [2.0, 0.01, 0.001, 0.0012, 0.002], Shape.FLAT, 2),  # nearly nothing is not read for its noise
        (FALLS, [1.5, 1.2, 0.9, 0.7, 0.5], Shape.FALLING, None),
        ([2.0, 0.5, 0.2, 0.2, 0.2], [1.5, 1.2, 0.9, 0.7, 0.5], Shape.FALLING, None),  # the validation loss decides
        ([2.0, 0.5, 0.2, 0.2, 0.2], [1.5, 1.0, 0.9, 1.1, 1.3], Shape.OVERFITTING, 3),
        ([2.0, 0.5, 0.2, 0.3, 0.4], [1.5, 1.0, 0.9, 1.1, 1.3], Shape.UNSTABLE, None),  # both rise
        ([2.0, 0.5, 0.2, 1.5, 1.6], [1.5, 1.0, 0.9, 0.8, 0.7], Shape.UNSTABLE, None),
        (FALLS, [1.5, math.inf, 0.9, 0.8, 0.7], Shape.UNSTABLE, None),
    ],
)
def test_both_curves(training: list[float], held_out: list[float], shape: Shape, after: int | None) -> None:
    """Overfitting is a validation loss that rises while the training loss does not."""
    advice = advise(training, by_epoch(held_out))
    assert (advice.shape, advice.after) == (shape, after)


def test_advice_on_overfitting_says_what_to_do() -> None:
    """It advises fewer epochs or to keep the best one; where the best one was kept, it says so."""
    held_out = by_epoch([1.5, 1.0, 0.9, 1.1, 1.3])
    advice = advise(FALLS, held_out)
    assert advice.summary == "overfitting after 3"
    assert "rises from 0.9 to 1.3" in advice.text
    assert advice.text.endswith("set epoch_count: 3, or hyperparameters.keep: best")
    assert advise(FALLS, held_out, keeps_best=True).text.endswith("epoch 3 was kept")


def test_a_validation_curve_that_lacks_an_epoch_is_not_read() -> None:
    """Without a validation loss for every epoch, the training curve is read alone."""
    assert advise(FALLS, by_epoch([1.5, 1.0, 0.9, 1.1])) == advise(FALLS)


@given(LOSSES, st.floats(0.1, 10), st.booleans())
def test_advice_does_not_depend_on_the_unit_of_the_loss(losses: list[float], unit: float, both: bool) -> None:
    """Curves in other units get the same advice, except where rounding moves them across a threshold."""
    held_out = by_epoch(losses[::-1]) if both else []
    fall = losses[0] - min(losses)
    margins = [
        abs((a - b) / scale - share)
        for a in losses
        for b in losses
        for share in (0, 1 / 5, 1 / 20)
        for scale in (fall, losses[-1] - min(losses), min(losses))
        if scale and a != b
    ]
    if min(margins, default=1) > 1e-9:
        advice = advise([loss * unit for loss in losses], [EpochLoss(one.epoch, one.loss * unit) for one in held_out])
        assert (advice.shape, advice.after) == (advise(losses, held_out).shape, advise(losses, held_out).after)


@given(LOSSES)
def test_a_flat_curve_loses_nothing_by_stopping_there(losses: list[float]) -> None:
    """Where the rule says that fewer epochs give the same, no later epoch is much better."""
    advice = advise(losses)
    if advice.after is not None:
        assert losses[advice.after - 1] - min(losses) <= (losses[0] - min(losses)) / 20 + 1e-9


@given(LOSSES, LOSSES)
def test_a_curve_that_ends_at_its_lowest_is_not_overfitting(training: list[float], held_out: list[float]) -> None:
    """A curve is overfitting only if it ends above its lowest epoch, which the advice names."""
    count = min(len(training), len(held_out))
    advice = advise(training[:count], by_epoch(held_out[:count]))
    if advice.shape is Shape.OVERFITTING and advice.after is not None:
        lowest = min(held_out[:count])
        assert held_out[advice.after - 1] == lowest < held_out[count - 1]


def test_an_epochs_loss_is_the_mean_of_its_steps() -> None:
    """Each epoch is averaged over its steps, in order."""
    snapshots = [Snapshot(1, 1, 4.0, 0), Snapshot(2, 1, 2.0, 0), Snapshot(3, 2, 1.0, 0)]
    assert epoch_means(snapshots) == [3.0, 1.0]
