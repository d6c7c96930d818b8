"""Loss curves as PNG."""

from __future__ import annotations

import math
import struct

import pytest

from tunerun.job import EpochLoss, Snapshot
from tunerun.plots import (
    DOTS_PER_INCH,
    HEIGHT_INCHES,
    WIDTH_INCHES,
    Interval,
    TrialCurve,
    interval_plot,
    sweep_plot,
    trial_plot,
)

SIZE = (round(WIDTH_INCHES * DOTS_PER_INCH), round(HEIGHT_INCHES * DOTS_PER_INCH))


def curve(
    name: str = "t0 lr=0.001", scale: float = 1.0, last: float | None = None, validation: tuple[EpochLoss, ...] = ()
) -> TrialCurve:
    losses = [scale * 2 / step for step in range(1, 13)]
    if last is not None:
        losses[-1] = last
    steps = tuple(Snapshot(n, 1 + (n - 1) // 4, loss, 1e9 + n) for n, loss in enumerate(losses, 1))
    return TrialCurve(name, steps, 0.4, 1.9, validation)


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_a_trial_is_a_png_of_the_stated_size() -> None:
    """A trial's plot is a PNG, the same bytes every time."""
    assert size_of(trial_plot(curve())) == SIZE
    assert trial_plot(curve()) == trial_plot(curve())


def test_the_validation_loss_of_each_epoch_is_drawn() -> None:
    """Of a trial and of the trials of a sweep, also where it is no number."""
    losses = (EpochLoss(1, 0.9), EpochLoss(2, math.nan), EpochLoss(3, 1.1))
    with_losses = curve(validation=losses)
    assert size_of(trial_plot(with_losses)) == SIZE
    assert trial_plot(with_losses) != trial_plot(curve())
    assert size_of(sweep_plot("sweep x", [with_losses, curve("t1")], "t0")) == SIZE
    assert sweep_plot("sweep x", [with_losses]) != sweep_plot("sweep x", [curve()])


@pytest.mark.parametrize("count", [1, 3, 12, 40])
def test_a_sweep_of_any_size_is_a_png(count: int) -> None:
    """A sweep's plot is a PNG however many trials it has."""
    curves = [curve(f"t{n:02}", 1 + n / 10) for n in range(count)]
    assert size_of(sweep_plot("sweep x", curves, best="t00")) == SIZE


@pytest.mark.parametrize("last", [math.inf, math.nan, 1e6])
def test_a_curve_that_diverged_can_be_drawn(last: float) -> None:
    """Losses that are no number leave a gap, and very large ones fit."""
    assert size_of(trial_plot(curve(last=last))) == SIZE
    assert size_of(sweep_plot("sweep x", [curve(), curve("t1", last=last)])) == SIZE


def test_intervals_of_any_number_and_size_are_a_png() -> None:
    """Many make the plot higher; an interval without an end, or one of no length, is drawn too."""
    few = [Interval("a", 0.5, 0.2, 0.7, is_best=True), Interval("b", 0.0, 0.0, 0.0)]
    assert size_of(interval_plot("x", "difference", few)) == SIZE
    assert interval_plot("x", "difference", few) == interval_plot("x", "difference", few)
    assert interval_plot("x", "difference", few) != interval_plot("x", "difference", few[::-1])
    open_ended = [Interval("a", 0.5, -math.inf, math.inf)]
    assert size_of(interval_plot("x", "difference", open_ended)) == SIZE
    assert size_of(interval_plot("x", "difference", 20 * few))[1] > SIZE[1]


def test_a_dollar_sign_in_a_name_begins_no_formula() -> None:
    """A value from outside that is no formula is drawn as it is."""
    name = "text_input costs $5 or $\\frac{6"
    assert size_of(sweep_plot(name, [curve(name), curve("t1")], best=name)) == SIZE
    assert size_of(trial_plot(curve(name))) == SIZE
    assert size_of(interval_plot(name, "difference", [Interval(name, 0.5, 0.2, 0.7)])) == SIZE
