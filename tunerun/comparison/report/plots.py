"""The plots of a report as plain values: what is drawn, and a description in words of each mark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tunerun.comparison import numbers
from tunerun.comparison.columns import measure_title
from tunerun.comparison.labels import label, short_names, text
from tunerun.comparison.report.sources import ReportSources
from tunerun.comparison.results import Difference, Estimate, Measure, PointResult, Verdict
from tunerun.job import Scalar
from tunerun.metrics import Unit

LOG_RATIO = 20
"""Ratio of the largest to the smallest value from which an axis is logarithmic, as for learning rates."""

_ALL_EXAMPLES = "dataset.limit"
"""The key whose null means all training examples."""


class MarkKind(StrEnum):
    """How a mark of a plot is drawn."""

    ADVISED = "advised"
    TIED = "tied"
    POINT = "point"
    BASELINE = "baseline"


@dataclass(frozen=True)
class PlotMark:
    """A value and its interval; value, low and high are as drawn, so shares are percentages.

    Attributes:
        name: what the mark is called beside the plot.
        words: its values in words, for a pointer, a keyboard and the table.
    """

    name: str
    standing: MarkKind
    value: float
    low: float | None
    high: float | None
    words: str


@dataclass(frozen=True)
class ReferenceLine:
    """A value that marks are to be compared with; `words` name it below the plot."""

    words: str
    value: float


@dataclass(frozen=True)
class IntervalPlot:
    """Points with their intervals, the best first.

    Attributes:
        name: what is shown, as the choice of plots calls it.
        unit: written at the axis.
    """

    name: str
    unit: str
    marks: tuple[PlotMark, ...]
    lines: tuple[ReferenceLine, ...]


@dataclass(frozen=True)
class AxisPlace:
    """Where a mark is on an axis of the sweep; `at` is the position of its category where the axis has no numbers."""

    at: float
    mark: PlotMark


@dataclass(frozen=True)
class Series:
    """Points that differ in one axis of the sweep only."""

    name: str
    places: tuple[AxisPlace, ...]


@dataclass(frozen=True)
class AxisPlot:
    """A measure against one axis of the sweep.

    Attributes:
        categories: the values of an axis that has no numbers; empty: it has.
        is_log: whether the axis is drawn by logarithm.
    """

    name: str
    axis: str
    unit: str
    categories: tuple[str, ...]
    is_log: bool
    higher_is_better: bool
    series: tuple[Series, ...]
    lines: tuple[ReferenceLine, ...]


@dataclass(frozen=True)
class CurveLine:
    """The loss curves of one trial; `advice`: what they say of `epoch_count`, empty until it has succeeded."""

    name: str
    point: int
    standing: MarkKind
    advice: str
    training: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]


def point_name(point: PointResult) -> str:
    """Return a point's name in a plot: its number and what it sets."""
    words = label(point.overrides)
    return f"{point.number}: {words}" if words else f"point {point.number}"


def mark_kind(verdict: Verdict, point: PointResult) -> MarkKind:
    """Return the kind of a point's mark: what the verdict says of it."""
    if point.number == verdict.decision.advised:
        return MarkKind.ADVISED
    return MarkKind.TIED if point.is_tied else MarkKind.POINT


def interval_plots(verdict: Verdict) -> tuple[IntervalPlot, ...]:
    """Return the differences to each baseline, the hardest first, and then the value of each measure."""
    hardest = verdict.decision.against
    names = [b.name for b in verdict.baselines if any(d.baseline == b.name for p in verdict.points for d in p.against)]
    names.sort(key=lambda name: name != hardest)
    deciding = next((m for m in verdict.measures if m.name == verdict.metric), None)
    # Differences before values: they are what was tested.
    plots = [_differences(verdict, deciding, name) for name in names] if deciding is not None else []
    plots += [plot for measure in verdict.measures if (plot := _values(verdict, measure)).marks]
    return tuple(plots)


def _differences(verdict: Verdict, measure: Measure, baseline: str) -> IntervalPlot:
    rows, share = verdict.decision.rows, measure.unit is Unit.SHARE

    def p_value(value: float) -> str:
        written = numbers.p_value(value)
        return written if written.startswith("<") else f"= {written}"

    def words(difference: Difference) -> str:
        counts = "" if difference.wins is None else f"; {difference.wins} rows won, {difference.losses} lost"
        value = numbers.difference(difference.value, measure.unit, rows) + (" points" if share else "")
        return (
            f"{value} against {baseline}; "
            f"interval {numbers.interval(difference.low, difference.high, measure.unit, rows)}; "
            f"p {p_value(difference.p)} (Holm {p_value(difference.holm_p)}){counts}"
        )

    pairs = [(p, d) for p in verdict.points for d in p.against if d.baseline == baseline]
    # The best first: the page draws the first thirty marks until the reader asks for all.
    pairs.sort(key=lambda pair: _merit(pair[1].value, measure), reverse=True)
    marks = tuple(
        PlotMark(
            point_name(point),
            mark_kind(verdict, point),
            _drawn(difference.value, measure.unit),
            _drawn(difference.low, measure.unit),
            _drawn(difference.high, measure.unit),
            words(difference),
        )
        for point, difference in pairs
        if math.isfinite(difference.value)
    )
    unit = "percentage points" if share else _unit_name(measure.unit)
    # A difference within this line from 0 may be called equal.
    worth = verdict.decision.worth
    lines = [ReferenceLine(baseline, 0.0)]
    if worth:
        sign = 1 if measure.higher_is_better else -1
        lines.append(ReferenceLine("smallest difference worth having", _drawn(sign * worth, measure.unit)))
    name = f"{measure_title(measure)}: difference to {baseline}"
    return IntervalPlot(name, unit, marks, tuple(lines))


def _values(verdict: Verdict, measure: Measure) -> IntervalPlot:
    points = [p for p in verdict.points if _is_known(p.estimates, measure)]
    points.sort(key=lambda p: _merit(p.estimates[measure.name].value, measure), reverse=True)
    marks = [_point_mark(verdict, p, measure) for p in points]
    marks += [
        _mark(baseline.name, MarkKind.BASELINE, baseline.estimates[measure.name], measure, verdict)
        for baseline in verdict.baselines
        if _is_known(baseline.estimates, measure)
    ]
    return IntervalPlot(
        measure_title(measure), _unit_name(measure.unit), tuple(marks), _baseline_lines(verdict, measure)
    )


def _point_mark(verdict: Verdict, point: PointResult, measure: Measure) -> PlotMark:
    return _mark(point_name(point), mark_kind(verdict, point), point.estimates[measure.name], measure, verdict)


def _mark(name: str, kind: MarkKind, estimate: Estimate, measure: Measure, verdict: Verdict) -> PlotMark:
    unit = measure.unit
    return PlotMark(
        name,
        kind,
        _drawn(estimate.value, unit),
        None if estimate.low is None else _drawn(estimate.low, unit),
        None if estimate.high is None else _drawn(estimate.high, unit),
        _estimate_words(estimate, measure, verdict.decision.rows),
    )


def _estimate_words(estimate: Estimate, measure: Measure, rows: int) -> str:
    """A value with its interval and its spread over the seeds, where it has them, and its rows if they are not all."""
    if estimate.rows is not None:
        whole = _estimate_words(replace(estimate, rows=None), measure, estimate.rows)
        return f"{whole}; of {numbers.counted(estimate.rows, 'row')} alone"
    parts = [f"{measure_title(measure)} {numbers.measure(estimate.value, measure.unit, rows)}"]
    if estimate.low is not None and estimate.high is not None:
        parts.append(f"interval {numbers.interval(estimate.low, estimate.high, measure.unit, rows)}")
    if estimate.spread is not None:
        spread = numbers.figure(estimate.spread, measure.unit, rows)
        parts.append(f"standard deviation {spread} over {numbers.counted(estimate.seeds, 'seed')}")
    return "; ".join(parts)


def _baseline_lines(verdict: Verdict, measure: Measure) -> tuple[ReferenceLine, ...]:
    """The baselines' values of a measure."""
    return tuple(
        ReferenceLine(
            f"{b.name}: {numbers.measure(b.estimates[measure.name].value, measure.unit, verdict.decision.rows)}",
            _drawn(b.estimates[measure.name].value, measure.unit),
        )
        for b in verdict.baselines
        if _is_known(b.estimates, measure)
    )


def axis_plots(verdict: Verdict, sources: ReportSources) -> tuple[AxisPlot, ...]:
    """Return each measure against each key that the points vary, in the sweep's order of axes."""
    keys = [k for k in verdict.points[0].overrides if len(_settings(verdict, k)) > 1] if verdict.points else []
    names = short_names(keys)
    return tuple(
        plot
        for key in keys
        for measure in verdict.measures
        if (plot := _axis_plot(verdict, sources, key, names[key], measure)).series
    )


def _settings(verdict: Verdict, key: str) -> list[Scalar]:
    return list(dict.fromkeys(p.overrides.get(key) for p in verdict.points))


def _axis_plot(verdict: Verdict, sources: ReportSources, key: str, name: str, measure: Measure) -> AxisPlot:
    # Points that differ in this axis only are one line; without that, a plot of a grid would be a cloud.
    measured = [p for p in verdict.points if _is_known(p.estimates, measure)]
    where = _numeric_places(verdict, sources, measured, key)
    categories: list[str] = []
    if where is None:
        settings = list(dict.fromkeys(p.overrides.get(key) for p in measured))
        categories = [text(setting) for setting in settings]
        where = {p.number: float(settings.index(p.overrides.get(key))) for p in measured}
    groups: dict[str, list[PointResult]] = {}
    for point in measured:
        others = {k: v for k, v in point.overrides.items() if k != key and len(_settings(verdict, k)) > 1}
        groups.setdefault(label(others), []).append(point)
    series = tuple(
        Series(
            group,
            tuple(
                AxisPlace(where[p.number], _point_mark(verdict, p, measure))
                for p in sorted(members, key=lambda p: where[p.number])
            ),
        )
        for group, members in groups.items()
    )
    # Zero has no logarithm, so such an axis stays linear whatever its ratio.
    spread = list(where.values())
    is_log = not categories and bool(spread) and min(spread) > 0 and max(spread) >= LOG_RATIO * min(spread)
    axis = "training examples" if key == _ALL_EXAMPLES else name
    title = f"{measure_title(measure)} by {axis}"
    unit = _unit_name(measure.unit)
    return AxisPlot(
        title,
        axis,
        unit,
        tuple(categories),
        is_log,
        measure.higher_is_better,
        series,
        _baseline_lines(verdict, measure),
    )


def _numeric_places(
    verdict: Verdict, sources: ReportSources, points: Sequence[PointResult], key: str
) -> dict[int, float] | None:
    """Where each point is on an axis of numbers, by its number; None: the axis has something else."""
    places = {}
    for point in points:
        setting = point.overrides.get(key)
        # `null` is the whole data set, whose size only the trial's training set says.
        if setting is None and key == _ALL_EXAMPLES:
            setting = sources.training_rows.get(verdict.trials[point.trials[0]].record.key)
        # bool is a kind of int in Python.
        if isinstance(setting, bool) or not isinstance(setting, int | float):
            return None
        places[point.number] = float(setting)
    return places


def curve_lines(verdict: Verdict, sources: ReportSources) -> tuple[CurveLine, ...]:
    """Return the loss curves of all trials that have one."""
    lines = []
    # One line a trial and not a point: the curves of two seeds have no mean that either of them followed.
    for trial in verdict.trials:
        curve = sources.curves.get(trial.record.key)
        if curve is None or not (curve.training or curve.validation):
            continue
        point = verdict.points[trial.point]
        seed = f", seed {trial.record.settings.seed}" if len(point.trials) > 1 else ""
        advice = "" if trial.advice is None else trial.advice.text
        name = f"{point_name(point)}{seed}"
        # Four digits: a screen shows no more, and 200 curves have to fit into the page.
        training, validation = (
            tuple((_significant(x, 4), _significant(y, 4)) for x, y in points if math.isfinite(y))
            for points in (curve.training, curve.validation)
        )
        lines.append(CurveLine(name, point.number, mark_kind(verdict, point), advice, training, validation))
    return tuple(lines)


def _unit_name(unit: Unit) -> str:
    """A unit as an axis shows it: of a share the percent sign, of a plain number nothing."""
    return "%" if unit is Unit.SHARE else "" if unit is Unit.NUMBER else unit.value


def _is_known(estimates: Mapping[str, Estimate], measure: Measure) -> bool:
    return measure.name in estimates and math.isfinite(estimates[measure.name].value)


def _merit(value: float, measure: Measure) -> float:
    return value if measure.higher_is_better else -value


def _drawn(value: float, unit: Unit) -> float:
    """A value in the unit of its plot: a share as a percentage; an infinite end of an interval as 1e9."""
    # JSON has no infinity; `report.js` reads anything beyond 1e8 as one.
    if not math.isfinite(value):
        return math.copysign(1e9, value)
    return _significant(100 * value if unit is Unit.SHARE else value, 6)


def _significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
