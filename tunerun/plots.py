"""Plots of loss curves and intervals as PNG, with matplotlib's object interface: no pyplot, display or global state.

matplotlib is imported when the first plot is drawn, because the import takes half a second.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.comparison import numbers
from tunerun.comparison.curves import epoch_means
from tunerun.job import EpochLoss, Snapshot

WIDTH_INCHES = 8.0
HEIGHT_INCHES = 4.5
DOTS_PER_INCH = 110
MAX_IN_LEGEND = 12
"""Maximum number of curves in a legend: the best trial's, and those that end lowest."""

MOST_LINES_OF_HEIGHT = 18
"""Number of intervals that fit the usual height; with more, the plot grows in proportion."""

_GREY = "#9aa0a6"
_UNIT = "nats per output token"


@dataclass(frozen=True)
class TrialCurve:
    """The loss curve of a trial.

    Attributes:
        name: its name in the legend.
        snapshots: in the order of their steps; not empty.
        validation_loss: loss of the tuned model on held-out examples, in nats per output token; None: not measured.
        base_loss: the same for the base model before training; None: not measured.
        validation: the same after each epoch; empty: not measured.
    """

    name: str
    snapshots: tuple[Snapshot, ...]
    validation_loss: float | None = None
    base_loss: float | None = None
    validation: tuple[EpochLoss, ...] = ()


def trial_plot(curve: TrialCurve) -> bytes:
    """Draw one trial as PNG: the loss of every step, the mean of every epoch, and the held-out losses.

    Args:
        curve: of the trial, in nats per output token.

    Returns:
        The bytes of the PNG; the same curve gives the same bytes.
    """
    return _png(trial_figure(curve))


def trial_figure(curve: TrialCurve) -> Any:
    """Draw one trial as a matplotlib figure; `trial_plot` is its PNG."""
    figure, axes = _canvas(curve.name)
    steps_of: dict[int, list[int]] = {}
    for snapshot in curve.snapshots:
        steps_of.setdefault(snapshot.epoch, []).append(snapshot.step)
    middles = [sum(steps) / len(steps) for _, steps in sorted(steps_of.items())]
    steps, losses = [s.step for s in curve.snapshots], [_drawn(s.mean_loss) for s in curve.snapshots]
    axes.plot(steps, losses, color="C0", alpha=0.35, linewidth=1, label="each step")
    means = epoch_means(curve.snapshots)
    axes.plot(middles, means, color="C0", marker="o", linewidth=2, label="mean of the epoch")
    if curve.validation:
        ends = {s.epoch: s.step for s in curve.snapshots}
        measured = [one for one in curve.validation if one.epoch in ends]
        axes.plot(
            [ends[one.epoch] for one in measured],
            [_drawn(one.loss) for one in measured],
            color="C2",
            marker="s",
            linestyle="--",
            label="held out, after the epoch",
        )
    for value, colour, text in (
        (None if curve.validation else curve.validation_loss, "C2", "held out, tuned"),
        (curve.base_loss, "C3", "held out, base model"),
    ):
        if value is not None and math.isfinite(value):
            axes.axhline(value, color=colour, linestyle="--", linewidth=1.3, label=f"{text}: {numbers.loss(value)}")
    axes.set_xlabel("optimiser step")
    _finish(axes, [curve])
    _legend_beside(axes)
    return figure


def sweep_plot(title: str, curves: Sequence[TrialCurve], best: str | None = None) -> bytes:
    """Draw all trials of a sweep as PNG: one line per trial for the mean loss of each epoch, dashed for held-out loss.

    Args:
        title: of the plot.
        curves: not empty.
        best: name of the trial to draw thicker; None: no trial.

    Returns:
        The bytes of the PNG.
    """
    return _png(sweep_figure(title, curves, best))


def sweep_figure(title: str, curves: Sequence[TrialCurve], best: str | None = None) -> Any:
    """Draw all trials of a sweep as a matplotlib figure; `sweep_plot` is its PNG."""
    figure, axes = _canvas(title)

    def rank(curve: TrialCurve) -> tuple[bool, float]:
        last = epoch_means(curve.snapshots)[-1]
        return curve.name != best, last if math.isfinite(last) else math.inf

    # A legend of hundreds would hide the plot; a curve that ends in NaN is named last.
    named = sorted(curves, key=rank)[:MAX_IN_LEGEND]
    colours: list[Any] = [f"C{position}" for position in range(len(named))]
    if len(named) > 10:  # matplotlib's default colours begin again after ten
        from matplotlib import colormaps

        colours = [colormaps["tab20"](position) for position in range(len(named))]
    for curve in curves:
        is_named = curve in named
        means = epoch_means(curve.snapshots)
        axes.plot(
            range(1, len(means) + 1),
            means,
            color=colours[named.index(curve)] if is_named else _GREY,
            linewidth=3 if curve.name == best else 1.5 if is_named else 0.8,
            alpha=1 if is_named else 0.5,
            marker="o",
            markersize=4 if is_named else 2,
            zorder=2 + 1 / len(means),  # shorter runs on top: they often coincide with the start of a longer one
            label=_plain(f"{curve.name} (best)" if curve.name == best else curve.name) if is_named else None,
        )
        if is_named and curve.validation:
            axes.plot(
                [one.epoch for one in curve.validation],
                [_drawn(one.loss) for one in curve.validation],
                color=colours[named.index(curve)],
                linewidth=2 if curve.name == best else 1,
                linestyle="--",
            )
    axes.set_xlabel("epoch")
    _finish(axes, curves)
    count = len(curves)
    legend = f"{count} trials" if count <= MAX_IN_LEGEND else f"the {MAX_IN_LEGEND} lowest of {count} trials"
    _legend_beside(axes, f"{legend}\ndashed: held out" if any(curve.validation for curve in curves) else legend)
    return figure


@dataclass(frozen=True)
class Interval:
    """A value with its interval, drawn on one line of the plot.

    Attributes:
        name: the label of the line.
        value: the marked value.
        low, high: ends of the interval, in the unit of the value; may be infinite.
        is_best: whether it is drawn in colour; the others are grey.
    """

    name: str
    value: float
    low: float
    high: float
    is_best: bool = False


def interval_plot(title: str, axis: str, intervals: Sequence[Interval]) -> bytes:
    """Draw values with their intervals one below the other, and a vertical line at 0, as PNG.

    Args:
        title: of the plot.
        axis: the label of the value axis, with its unit.
        intervals: from top to bottom; not empty. An infinite end is drawn up to the edge.

    Returns:
        The bytes of the PNG.
    """
    return _png(interval_figure(title, axis, intervals))


def interval_figure(title: str, axis: str, intervals: Sequence[Interval]) -> Any:
    """Draw values with their intervals as a matplotlib figure; `interval_plot` is its PNG."""
    figure, axes = _canvas(title, HEIGHT_INCHES * max(1.0, len(intervals) / MOST_LINES_OF_HEIGHT))
    # Zero is always in the plot: the line that an interval has to clear.
    ends = [end for each in intervals for end in (each.low, each.value, each.high, 0.0) if math.isfinite(end)]
    margin = 0.05 * (max(ends) - min(ends) or 1.0)
    left, right = min(ends) - margin, max(ends) + margin
    for place, each in enumerate(intervals):
        colour = "C0" if each.is_best else _GREY
        axes.plot([max(left, each.low), min(right, each.high)], [place, place], color=colour, linewidth=2)
        axes.plot([each.value], [place], color=colour, marker="o", markersize=6)
    axes.axvline(0, color="#404040", linewidth=1)
    axes.set_xlim(left, right)
    axes.set_ylim(len(intervals) - 0.5, -0.5)
    axes.set_yticks(range(len(intervals)), [_plain(each.name) for each in intervals], fontsize="small")
    axes.set_xlabel(axis)
    axes.set_ylabel("")
    return figure


def _legend_beside(axes: Any, title: str | None = None) -> None:
    """Put the legend beside the axes, where it does not cover a curve."""
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), title=title)


def _canvas(title: str, height_inches: float = HEIGHT_INCHES) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot, which keeps every figure of the process alive and is not safe in threads.
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(_plain(title), loc="left")
    axes.set_ylabel(f"mean loss\n[{_UNIT}]")
    axes.grid(visible=True, color="#e0e0e0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _finish(axes: Any, curves: Sequence[TrialCurve]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finite = [v for c in curves for v in epoch_means(c.snapshots) if math.isfinite(v) and v > 0]
    if finite and max(finite) > 100 * min(finite):
        # A linear axis would squeeze most of the curves into one flat line at the bottom.
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _drawn(value: float) -> float:
    # matplotlib leaves a gap at NaN; an infinite value would stretch the axis.
    return value if math.isfinite(value) else math.nan


def _plain(text: str) -> str:
    """Escape dollar signs in a user's text, because matplotlib renders the text between two of them as a formula."""
    return text.replace("$", r"\$")


def _png(figure: Any) -> bytes:
    target = io.BytesIO()
    # matplotlib would write its name and version into the file; without them the same curve gives the same bytes.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
