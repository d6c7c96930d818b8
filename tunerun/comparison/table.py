"""The table of a comparison: columns and rows of values, made once; every renderer shows it and decides nothing.

Rows are points first, then baselines. Where a point has several trials (seeds), its row has their mean and spread, and
the trials are rows of their own below it for the renderers that want them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from tunerun.comparison import labels, numbers
from tunerun.comparison.results import (
    EPOCH_LOSS,
    LOSS,
    BaselineResult,
    Decision,
    Difference,
    Estimate,
    Measure,
    PointResult,
    TrialResult,
    Verdict,
)
from tunerun.job import JobState, Scalar
from tunerun.metrics import Unit

if TYPE_CHECKING:
    import pandas

_LOSS = Measure(LOSS, Unit.NATS, higher_is_better=False)
_EPOCH_LOSS = Measure(EPOCH_LOSS, Unit.NATS, higher_is_better=False)
_SECONDS = Measure("train/seconds", Unit.NUMBER, higher_is_better=False)
_TITLES = {EPOCH_LOSS: "training loss", _SECONDS.name: "seconds"}

Cell = Scalar | Estimate | Difference | tuple[int, ...]
"""A value as it is in a table; a tuple: numbers of trials. None: it is not known, or does not apply to the row."""


class ColumnKind(StrEnum):
    """What the cells of a column are, and so how they are written."""

    LABEL = "label"
    """The row's own name: the number of a point, the name of a baseline."""
    VALUE = "value"
    """What the sweep sets."""
    TEXT = "text"
    COUNT = "count"
    SHARE = "share"
    MEASURE = "measure"
    """An `Estimate`."""
    DIFFERENCE = "difference"
    """A `Difference`, with its interval."""
    P = "p"

    @property
    def is_text(self) -> bool:
        """Whether cells are words, which begin at the left; numbers end at the right."""
        return self is ColumnKind.TEXT


class RowKind(StrEnum):
    """What a row is about."""

    POINT = "point"
    TRIAL = "trial"
    BASELINE = "baseline"


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: what files for programs call it: a dotted key of the config, or a name that MLflow shows.
        title: what people read.
        measure: of a column of estimates.
        rank: how soon it is left out where there is little room: the highest first, 0 never.
    """

    key: str
    title: str
    kind: ColumnKind
    measure: Measure | None = None
    rank: int = 0


@dataclass(frozen=True)
class Row:
    """A row: its cells by the key of their column.

    Attributes:
        point: number of the point that it belongs to; None: a baseline.
        trial: its place in `Verdict.trials`; None: the row is not about one trial.
    """

    kind: RowKind
    cells: Mapping[str, Cell]
    point: int | None = None
    trial: int | None = None
    is_advised: bool = False
    is_tied: bool = False
    tied_p: float | None = None

    @property
    def mark(self) -> str:
        """One character: `*` the advised point, `=` one that cannot be told from the best; else none."""
        return "*" if self.is_advised else "=" if self.is_tied else ""


@dataclass(frozen=True)
class ComparisonTable:
    """A verdict as a table.

    Attributes:
        rows: points, then baselines.
        left_out: points that are not among the rows.
    """

    verdict: Verdict
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    left_out: int = 0

    @classmethod
    def of(cls, verdict: Verdict) -> ComparisonTable:
        """The whole table of a verdict."""
        columns = _Columns(verdict)
        points = [_point_row(verdict, point, columns) for point in verdict.points]
        return cls(
            verdict=verdict,
            title=_title(verdict),
            columns=tuple(columns.all),
            rows=(*points, *map(_baseline_row, verdict.baselines)),
        )

    # What it says

    @property
    def sentence(self) -> str:
        """The sentence of the verdict."""
        return self.verdict.sentence

    @property
    def decision(self) -> Decision:
        """What the statistics allow to say."""
        return self.verdict.decision

    @property
    def points(self) -> tuple[Row, ...]:
        """The rows of points, without baselines."""
        return tuple(row for row in self.rows if row.kind is RowKind.POINT)

    @property
    def baselines(self) -> tuple[Row, ...]:
        """The rows of baselines, without points."""
        return tuple(row for row in self.rows if row.kind is RowKind.BASELINE)

    @property
    def has_replicates(self) -> bool:
        """Whether a point has several trials."""
        return any(len(point.trials) > 1 for point in self.verdict.points)

    @cached_property
    def legend(self) -> tuple[str, ...]:
        """What the marks and signs of the table mean, a sentence each; only those that it has."""
        lines = []
        if any(row.is_advised for row in self.rows):
            lines.append("*: the point to use.")
        if any(row.mark == "=" for row in self.rows):
            lines.append("=: cannot be told from the best point.")
        against = self.column_of(ColumnKind.DIFFERENCE)
        if against is not None:
            deciding = self._measure_of(self.decision.metric)
            unit = "percentage points" if deciding and deciding.unit is Unit.SHARE else "units of the measure"
            confidence = f"{100 * (1 - self.decision.alpha):g} %"
            lines.append(
                f"{against.title}: difference in {unit}, {confidence} interval; p corrected for "
                f"{numbers.counted(self.decision.family, 'comparison')}."
            )
        if self.has_replicates:
            lines.append("±: standard deviation over seeds.")
        lines.extend(f"{each.name}: {each.problem}" for each in self.verdict.baselines if each.problem)
        return tuple(lines)

    # Cells

    def text(self, row: Row, column: Column) -> str:
        """A cell as people read it; empty where the column does not apply to the row."""
        value = row.cells.get(column.key)
        rows = self.decision.rows
        if column.kind is ColumnKind.MEASURE and column.measure is not None:
            if isinstance(value, Estimate):
                return _estimate_text(value, column.measure.unit, rows)
            applies = row.kind is not RowKind.BASELINE or column.measure in self.verdict.measures
            return numbers.UNKNOWN if applies else ""
        if isinstance(value, Difference):
            measure = self._measure_of(self.decision.metric)
            unit = Unit.NUMBER if measure is None else measure.unit
            low_to_high = numbers.interval(value.low, value.high, unit, rows)
            return f"{numbers.difference(value.value, unit, rows)} ({low_to_high})"
        if column.kind is ColumnKind.VALUE:  # null is a value too
            if column.key not in row.cells or isinstance(value, Estimate | tuple):
                return ""
            return labels.text(value)
        if isinstance(value, tuple):
            return _ranges(value)
        if value is None or isinstance(value, Estimate):
            return ""
        if column.kind is ColumnKind.P:
            return numbers.p_value(float(value))
        if column.kind is ColumnKind.SHARE:
            return numbers.measure(float(value), Unit.SHARE, rows)
        return f"{value:,}" if column.kind is ColumnKind.COUNT else " ".join(str(value).split())

    def texts(self, row: Row) -> list[str]:
        """The cells of a row as people read them, in the order of the columns."""
        return [self.text(row, column) for column in self.columns]

    def flat(self, rows: Sequence[Row]) -> list[dict[str, Scalar]]:
        """Rows for programs: numbers as they are, and a column for each part of an estimate and of a difference.

        Returns:
            Dictionaries of the same keys, without the parts that no row has.
        """
        found = [self._flat(row) for row in rows]
        empty = [key for key in (found[0] if found else ()) if all(row[key] in (None, "") for row in found)]
        return [{key: value for key, value in row.items() if key not in empty} for row in found]

    def _flat(self, row: Row) -> dict[str, Scalar]:
        seed = row.cells.get("seed") if row.kind is RowKind.TRIAL else None
        found: dict[str, Scalar] = {
            "row": row.kind.value,
            "advised": row.is_advised,
            "tied": row.is_tied,
            "tied_p": row.tied_p,
            "seed": seed if isinstance(seed, int) else None,
        }
        for column in self.columns:
            value = row.cells.get(column.key)
            if column.kind is ColumnKind.MEASURE:
                found |= _flat_estimate(column.key, value if isinstance(value, Estimate) else None)
            elif column.kind is ColumnKind.DIFFERENCE:
                found |= _flat_difference(column.key, value if isinstance(value, Difference) else None)
            elif isinstance(value, tuple):  # `3-5` would be a date to a spreadsheet
                found[column.key] = " ".join(map(str, value))
            elif not isinstance(value, Estimate | Difference):
                found[column.key] = value
        return found

    # Parts of it

    def column_of(self, kind: ColumnKind) -> Column | None:
        """The first column of a kind."""
        return next((column for column in self.columns if column.kind is kind), None)

    def best(self, count: int) -> ComparisonTable:
        """The same with no more than so many points: where there are more, the best of them, the best first."""
        points = self.points
        if len(points) <= count:
            return self
        deciding = self._measure_of(self.decision.metric)
        ranked = sorted(points, key=lambda row: _rank(row, deciding))[:count]
        return replace(self, rows=(*ranked, *self.baselines), left_out=self.left_out + len(points) - count)

    def without(self, keys: Iterable[str]) -> ComparisonTable:
        """The same without some columns."""
        dropped = set(keys)
        return replace(self, columns=tuple(column for column in self.columns if column.key not in dropped))

    def trials_of(self, row: Row) -> tuple[Row, ...]:
        """A row for each trial of a point; none of a baseline."""
        if row.kind is not RowKind.POINT or row.point is None:
            return ()
        columns = _Columns(self.verdict)
        return tuple(_trial_row(self.verdict, place, columns) for place in self.verdict.points[row.point].trials)

    def _measure_of(self, name: str | None) -> Measure | None:
        return next((measure for measure in self.verdict.measures if measure.name == name), None)

    # As other libraries and people want it

    def render(self, name: str) -> str:
        """The table as text of some kind: `csv`, `html`, `json`, `latex`, `markdown`, `note`, `terminal`.

        Raises:
            InputError: the renderer is unknown; lists the known ones.
        """
        from tunerun.comparison.renderers import renderer

        return renderer(name).render(self)

    def to_pandas(self) -> pandas.DataFrame:
        """One row a point and a baseline, with the parts of every estimate; `SweepResult.to_pandas` has the trials."""
        from tunerun.comparison.renderers.frame import points_frame

        return points_frame(self)

    def _repr_html_(self) -> str:
        return self.render("html")

    def __str__(self) -> str:
        return self.render("terminal")

    def __repr__(self) -> str:
        return f"<ComparisonTable {self.title}: {len(self.points)} points, {len(self.baselines)} baselines>"


class _Columns:
    """Which columns a verdict needs."""

    def __init__(self, verdict: Verdict) -> None:
        self.varied = list(dict.fromkeys(key for point in verdict.points for key in point.overrides))
        self.shows_trials = any(len(point.trials) > 1 for point in verdict.points) or any(
            set(each.trials) != set(range(len(verdict.trials))) for each in verdict.baselines
        )
        against = verdict.decision.against
        measured = {name for trial in verdict.trials for name in trial.metrics}
        self.aside = [
            measure
            for measure in (_LOSS, _EPOCH_LOSS, _SECONDS)
            if measure.name in measured and measure.name not in {each.name for each in verdict.measures}
        ]
        self.measures = [*verdict.measures, *self.aside]
        self.all: list[Column] = [Column("point", "point", ColumnKind.LABEL)]
        if len(verdict.sweeps) > 1:
            self.all.append(Column("sweep", "sweep", ColumnKind.TEXT))
        if self.shows_trials:
            self.all.append(Column("trials", "trials", ColumnKind.TEXT, rank=5))
        heads = labels.short_names(self.varied)
        self.all.extend(Column(key, heads[key], ColumnKind.VALUE) for key in self.varied)
        if any(trial.state is not JobState.SUCCEEDED for trial in verdict.trials):
            self.all.append(Column("state", "state", ColumnKind.TEXT))
        if any(len(point.trials) > 1 for point in verdict.points):
            self.all.append(Column("seeds", "seeds", ColumnKind.COUNT, rank=1))
        for place, measure in enumerate(verdict.measures):
            self.all.append(_measure_column(measure, rank=2 if place else 0))
            if place == 0 and against is not None:
                self.all.append(Column("difference", f"vs {against}", ColumnKind.DIFFERENCE))
                self.all.append(Column("p", "p", ColumnKind.P, rank=1))
        if any(point.stopped for point in verdict.points):
            self.all.append(Column("stopped_early", "stopped early", ColumnKind.TEXT))
        if any(point.consistency is not None for point in verdict.points):
            self.all.append(Column("consistency", "consistency", ColumnKind.SHARE, rank=4))
        self.all.extend(_measure_column(measure, rank=3 if measure is _LOSS else 6) for measure in self.aside)
        if any(point.tokens for point in verdict.points):
            self.all.append(Column("tokens", "tokens", ColumnKind.COUNT, rank=7))
        if any(trial.advice for trial in verdict.trials):
            self.all.append(Column("curve", "loss curve", ColumnKind.TEXT, rank=5))


def _measure_column(measure: Measure, rank: int) -> Column:
    return Column(measure.name, measure_title(measure), ColumnKind.MEASURE, measure, rank)


def measure_title(measure: Measure) -> str:
    """A measure as people read it: `exact match`, `validation loss`."""
    return _TITLES.get(measure.name) or measure.name.removeprefix("eval/").replace("_", " ").replace("/", " ")


def _title(verdict: Verdict) -> str:
    ids = ", ".join(sweep.id for sweep in verdict.sweeps)
    held_out = "" if verdict.held_out == "validation" else f", on the {verdict.held_out} set"
    return f"{verdict.sweep.experiment}: {'sweep' if len(verdict.sweeps) == 1 else 'sweeps'} {ids}{held_out}"


# Rows


def _point_row(verdict: Verdict, point: PointResult, columns: _Columns) -> Row:
    trials = [verdict.trials[place] for place in point.trials]
    is_advised = point.number == verdict.decision.advised
    against = next((each for each in point.against if each.baseline == verdict.decision.against), None)
    cells: dict[str, Cell] = {
        "point": point.number,
        "sweep": ", ".join(dict.fromkeys(_short_id(verdict, trial) for trial in trials)),
        "trials": point.trials,
        **point.overrides,
        "state": _states(trials),
        "seeds": sum(trial.state is JobState.SUCCEEDED for trial in trials),
        **{measure.name: _mean(measure, trials) for measure in columns.aside},
        **point.estimates,
        "difference": against,
        "p": None if against is None else against.p,
        "stopped_early": point.stopped.words if point.stopped else "",
        "consistency": point.consistency,
        "tokens": point.tokens,
        "curve": ", ".join(dict.fromkeys(trial.advice.summary for trial in trials if trial.advice)),
    }
    return Row(RowKind.POINT, cells, point.number, None, is_advised, point.is_tied, point.tied_p)


def _trial_row(verdict: Verdict, place: int, columns: _Columns) -> Row:
    trial = verdict.trials[place]
    point = verdict.points[trial.point]
    cells: dict[str, Cell] = {
        "point": trial.point,
        "sweep": _short_id(verdict, trial),
        "trials": (place,),
        **point.overrides,
        "state": _states([trial]),
        "seed": trial.record.settings.seed,
        **{m.name: Estimate(trial.metrics[m.name]) for m in columns.measures if m.name in trial.metrics},
        "tokens": trial.record.tokens,
        "curve": trial.advice.summary if trial.advice else "",
    }
    is_advised = trial.point == verdict.decision.advised
    return Row(RowKind.TRIAL, cells, trial.point, place, is_advised, point.is_tied)


def _baseline_row(baseline: BaselineResult) -> Row:
    cells: dict[str, Cell] = {
        "point": baseline.name,
        "trials": baseline.trials,
        **baseline.estimates,
        "curve": "not tuned",
    }
    return Row(RowKind.BASELINE, cells)


def _mean(measure: Measure, trials: Sequence[TrialResult]) -> Estimate | None:
    values = [trial.metrics[measure.name] for trial in trials if measure.name in trial.metrics]
    if not values:
        return None
    return Estimate(fmean(values), spread=stdev(values) if len(values) > 1 else None, seeds=len(values))


def _short_id(verdict: Verdict, trial: TrialResult) -> str:
    """A sweep's id without the experiment's name, which is in the title."""
    return trial.sweep.removeprefix(f"{verdict.sweep.experiment}-")


def _states(trials: Sequence[TrialResult]) -> str:
    if len(trials) > 1:
        counts = Counter(trial.state.value for trial in trials)
        return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} {state}" for state, n in counts.items())
    trial = trials[0]
    is_under_way = trial.last_step and trial.state is not JobState.SUCCEEDED
    return f"{trial.state} {trial.last_step}/{trial.record.steps}" if is_under_way else trial.state.value


def _ranges(places: Sequence[int]) -> str:
    """Numbers with runs drawn together: `0-2, 5`."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _rank(row: Row, measure: Measure | None) -> tuple[bool, bool, float, int]:
    """The advised point first, then what cannot be told from the best, then by the measure that decides."""
    estimate = row.cells.get(measure.name) if measure else None
    merit = float("inf")
    if measure is not None and isinstance(estimate, Estimate) and estimate.value == estimate.value:  # not NaN
        merit = -estimate.value if measure.higher_is_better else estimate.value
    return not row.is_advised, not row.is_tied, merit, row.point or 0


# Cells


def _estimate_text(estimate: Estimate, unit: Unit, rows: int) -> str:
    if estimate.rows is not None:
        whole = _estimate_text(replace(estimate, rows=None), unit, estimate.rows)
        return f"{whole} ({numbers.counted(estimate.rows, 'row')})"
    if estimate.spread is None:
        return numbers.measure(estimate.value, unit, rows)
    value = numbers.figure(estimate.value, unit, rows)
    if unit is Unit.SHARE:
        return f"{value} ± {numbers.spread(100 * estimate.spread, value)} %"
    return f"{value} ± {numbers.spread(estimate.spread, value)}"


def _flat_estimate(key: str, estimate: Estimate | None) -> dict[str, Scalar]:
    parts: tuple[tuple[str, Callable[[Estimate], Scalar]], ...] = (
        (key, lambda e: e.value),
        (f"{key} low", lambda e: e.low),
        (f"{key} high", lambda e: e.high),
        (f"{key} spread", lambda e: e.spread),
        (f"{key} rows", lambda e: e.rows),
    )
    return {name: None if estimate is None else read(estimate) for name, read in parts}


def _flat_difference(key: str, found: Difference | None) -> dict[str, Scalar]:
    if found is None:
        return dict.fromkeys((f"{key} against", key, f"{key} low", f"{key} high", f"{key} holm_p", f"{key} outcome"))
    return {
        f"{key} against": found.baseline,
        key: found.value,
        f"{key} low": found.low,
        f"{key} high": found.high,
        f"{key} holm_p": found.holm_p,
        f"{key} outcome": found.outcome.value,
    }
