"""Loss curves and intervals: what is drawn, and that it becomes a PNG."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from tunerun.job import EpochLoss, Snapshot
from tunerun.plots import (
    DOTS_PER_INCH,
    HEIGHT_INCHES,
    MAX_IN_LEGEND,
    WIDTH_INCHES,
    Interval,
    TrialCurve,
    interval_figure,
    interval_plot,
    sweep_figure,
    sweep_plot,
    trial_figure,
    trial_plot,
)

SIZE = (round(WIDTH_INCHES * DOTS_PER_INCH), round(HEIGHT_INCHES * DOTS_PER_INCH))


def curve(
    name: str = "t0 lr=0.001", scale: float = 1.0, last: float | None = None, validation: tuple[EpochLoss, ...] = ()
) -> TrialCurve:
    """A curve of three epochs of four steps; their mean losses are about 1.04, 0.32 and 0.19 times `scale`."""
    losses = [scale * 2 / step for step in range(1, 13)]
    if last is not None:
        losses[-1] = last
    steps = tuple(Snapshot(n, 1 + (n - 1) // 4, loss, 1e9 + n) for n, loss in enumerate(losses, 1))
    return TrialCurve(name, steps, 0.4, 1.9, validation)


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def points(line: Any) -> list[tuple[float, float]]:
    return [(float(x), round(float(y), 3)) for x, y in line.get_xydata()]


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.slow
def test_a_trial_is_a_png_of_the_stated_size() -> None:
    """A trial's plot is a PNG, the same bytes every time."""
    assert size_of(trial_plot(curve())) == SIZE
    assert trial_plot(curve()) == trial_plot(curve())


def test_a_trials_steps_epochs_and_held_out_losses_are_drawn() -> None:
    """Every step, the mean of each epoch at its middle, and a horizontal line for each held-out loss."""
    (axes,) = trial_figure(curve()).axes
    steps, means, tuned, base = axes.get_lines()
    assert points(steps) == [(n, round(2 / n, 3)) for n in range(1, 13)]
    assert points(means) == [(2.5, 1.042), (6.5, 0.317), (10.5, 0.193)]
    assert (set(tuned.get_ydata()), set(base.get_ydata())) == ({0.4}, {1.9})
    assert legend(axes) == ["each step", "mean of the epoch", "held out, tuned: 0.400", "held out, base model: 1.90"]
    assert axes.get_title(loc="left") == "t0 lr=0.001"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimiser step", "mean loss\n[nats per output token]")
    assert axes.get_ylim()[0] == 0


def test_the_validation_loss_of_each_epoch_is_drawn() -> None:
    """At the last step of its epoch for a trial, at its epoch for a sweep; a loss that is not a number is a gap."""
    losses = (EpochLoss(1, 0.9), EpochLoss(2, math.nan), EpochLoss(3, 1.1))
    with_losses = curve(validation=losses)
    (axes,) = trial_figure(with_losses).axes
    held_out = axes.get_lines()[2]
    assert held_out.get_label() == "held out, after the epoch"
    assert list(held_out.get_xdata()) == [4, 8, 12]
    assert list(held_out.get_ydata()) == pytest.approx([0.9, math.nan, 1.1], nan_ok=True)
    (axes,) = sweep_figure("sweep x", [with_losses, curve("t1")], "t0").axes
    lines = axes.get_lines()
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-"]
    assert list(lines[1].get_xdata()) == [1, 2, 3]
    assert lines[1].get_color() == lines[0].get_color() != lines[2].get_color()
    assert axes.get_legend().get_title().get_text() == "2 trials\ndashed: held out"
    assert size_of(sweep_plot("sweep x", [with_losses, curve("t1")], "t0")) == SIZE


@pytest.mark.thorough
@pytest.mark.parametrize("count", [1, 3, 12, 40])
def test_a_sweep_of_any_size_is_drawn(count: int) -> None:
    """Each trial has a line; the best one is the thickest, and the legend names the best and the lowest."""
    curves = [curve(f"t{n:02}", 1 + n / 10) for n in range(count)]
    best = f"t{count - 1:02}"
    (axes,) = sweep_figure("sweep x", curves, best=best).axes
    lines = axes.get_lines()
    assert [line.get_ydata()[0] for line in lines] == pytest.approx([(1 + n / 10) * 25 / 24 for n in range(count)])
    assert {tuple(line.get_xdata()) for line in lines} == {(1, 2, 3)}
    assert max(range(count), key=lambda n: lines[n].get_linewidth()) == count - 1
    named = min(count, MAX_IN_LEGEND)
    assert sorted(legend(axes)) == sorted([*(f"t{n:02}" for n in range(named - 1)), f"{best} (best)"])
    assert (axes.get_title(loc="left"), axes.get_xlabel()) == ("sweep x", "epoch")
    assert size_of(sweep_plot("sweep x", curves, best="t00")) == SIZE


@pytest.mark.thorough
@pytest.mark.parametrize(("last", "scale"), [(math.inf, "linear"), (math.nan, "linear"), (1e6, "log")])
def test_a_curve_that_diverged_can_be_drawn(last: float, scale: str) -> None:
    """Losses that are not finite leave a gap, and very large ones have a logarithmic axis."""
    (axes,) = trial_figure(curve(last=last)).axes
    drawn = list(axes.get_lines()[0].get_ydata())
    assert drawn[:11] == [2 / step for step in range(1, 12)]
    assert drawn[11] == pytest.approx(last if scale == "log" else math.nan, nan_ok=True)
    assert axes.get_yscale() == scale
    (axes,) = sweep_figure("sweep x", [curve(), curve("t1", last=last)]).axes
    assert axes.get_yscale() == scale
    assert size_of(sweep_plot("sweep x", [curve(), curve("t1", last=last)])) == SIZE


@pytest.mark.slow
def test_intervals_of_any_number_and_size_are_drawn() -> None:
    """One below the other with their values; an interval without an end reaches the edge, many make the plot higher."""
    few = [Interval("a", 0.5, 0.2, 0.7, is_best=True), Interval("b", 0.0, 0.0, 0.0)]
    (axes,) = interval_figure("x", "difference", few).axes
    *drawn, zero = axes.get_lines()
    assert [points(line) for line in drawn] == [[(0.2, 0), (0.7, 0)], [(0.5, 0)], [(0, 1), (0, 1)], [(0, 1)]]
    assert set(zero.get_xdata()) == {0}
    assert drawn[0].get_color() == "C0" != drawn[2].get_color()
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    assert (axes.get_title(loc="left"), axes.get_xlabel()) == ("x", "difference")
    assert size_of(interval_plot("x", "difference", few)) == SIZE
    assert interval_plot("x", "difference", few) == interval_plot("x", "difference", few)
    (axes,) = interval_figure("x", "difference", [Interval("a", 0.5, -math.inf, math.inf)]).axes
    assert tuple(axes.get_lines()[0].get_xdata()) == axes.get_xlim()
    assert size_of(interval_plot("x", "difference", 20 * few))[1] > SIZE[1]


def test_a_dollar_sign_in_a_name_begins_no_formula() -> None:
    """A name with dollar signs is drawn as text."""
    name = "text_input costs $5 or $\\frac{6"
    assert size_of(sweep_plot(name, [curve(name), curve("t1")], best=name)) == SIZE
    assert size_of(trial_plot(curve(name))) == SIZE
    assert size_of(interval_plot(name, "difference", [Interval(name, 0.5, 0.2, 0.7)])) == SIZE
