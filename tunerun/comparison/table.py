"""The table of a comparison: columns and rows of values, made once; every renderer shows it and decides nothing.

Rows are points first, then baselines. Where a point has several trials (seeds), its row has their mean and spread, and
the trials are rows of their own below it for the renderers that want them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from tunerun.comparison import labels, numbers
from tunerun.comparison.columns import Column, ColumnKind, columns_of
from tunerun.comparison.results import Decision, Difference, Estimate, Measure, PointResult, TrialResult, Verdict
from tunerun.job import JobState, Scalar
from tunerun.metrics import Unit

if TYPE_CHECKING:
    import pandas

Cell = Scalar | Estimate | Difference | tuple[int, ...]
"""A value as it is in a table; a tuple: numbers of trials. None: it is not known, or does not apply to the row."""


class RowKind(StrEnum):
    """What a row is about."""

    POINT = "point"
    TRIAL = "trial"
    BASELINE = "baseline"


@dataclass(frozen=True)
class Row:
    """A row: its cells by the key of their column.

    Attributes:
        point: number of the point that it belongs to; None: a baseline.
    """

    kind: RowKind
    cells: Mapping[str, Cell]
    point: int | None = None
    is_advised: bool = False
    is_tied: bool = False
    tied_p: float | None = None

    @property
    def mark(self) -> str:
        """One character: `*` the advised point, `=` one that cannot be distinguished from the best; else none."""
        return "*" if self.is_advised else "=" if self.is_tied else ""


@dataclass(frozen=True)
class ComparisonTable:
    """A verdict as a table.

    Attributes:
        rows: points, then baselines.
        left_out: number of points that are not among the rows.
    """

    verdict: Verdict
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    left_out: int = 0

    @classmethod
    def of(cls, verdict: Verdict) -> ComparisonTable:
        """Make the whole table of a verdict."""
        columns = columns_of(verdict)
        ids = ", ".join(sweep.id for sweep in verdict.sweeps)
        sweeps = "sweep" if len(verdict.sweeps) == 1 else "sweeps"
        held_out = "" if verdict.held_out == "validation" else f", on the {verdict.held_out} set"
        baselines = (
            Row(
                RowKind.BASELINE,
                {"point": each.name, "trials": each.trials, **each.estimates, "curve": "not tuned"},
            )
            for each in verdict.baselines
        )
        return cls(
            verdict=verdict,
            title=f"{verdict.sweep.experiment}: {sweeps} {ids}{held_out}",
            columns=columns,
            rows=(*(_point_row(verdict, point, columns) for point in verdict.points), *baselines),
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

    @cached_property
    def legend(self) -> tuple[str, ...]:
        """What the marks and signs of the table mean, a sentence each; only those that it has."""
        lines = []
        if any(row.is_advised for row in self.rows):
            lines.append("*: the point to use.")
        if any(row.mark == "=" for row in self.rows):
            lines.append("=: cannot be distinguished from the best point.")
        against = self.column_of(ColumnKind.DIFFERENCE)
        if against is not None:
            unit = "percentage points" if self._deciding_unit is Unit.SHARE else "units of the measure"
            confidence = f"{100 * (1 - self.decision.alpha):g} %"
            lines.append(
                f"{against.title}: difference in {unit}, {confidence} interval; p corrected for "
                f"{numbers.counted(self.decision.family, 'comparison')}."
            )
        if any(len(point.trials) > 1 for point in self.verdict.points):
            lines.append("±: standard deviation over seeds.")
        lines.extend(f"{each.name}: {each.problem}" for each in self.verdict.baselines if each.problem)
        return tuple(lines)

    @property
    def _deciding(self) -> Measure | None:
        return next((measure for measure in self.verdict.measures if measure.name == self.decision.metric), None)

    @property
    def _deciding_unit(self) -> Unit:
        return Unit.NUMBER if self._deciding is None else self._deciding.unit

    # Cells

    def text(self, row: Row, column: Column) -> str:
        """Return a cell as people read it; empty where the column does not apply to the row."""
        value = row.cells.get(column.key)
        rows = self.decision.rows
        if column.kind is ColumnKind.MEASURE and column.measure is not None:
            if isinstance(value, Estimate):
                return _estimate_text(value, column.measure.unit, rows)
            # A baseline has no training loss; a dash there would say that it is not known yet.
            applies = row.kind is not RowKind.BASELINE or column.measure in self.verdict.measures
            return numbers.UNKNOWN if applies else ""
        if isinstance(value, Difference):
            low_to_high = numbers.interval(value.low, value.high, self._deciding_unit, rows)
            return f"{numbers.difference(value.value, self._deciding_unit, rows)} ({low_to_high})"
        if column.kind is ColumnKind.VALUE:  # null is a value too: an axis may have it
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
        """Return the cells of a row as people read them, in the order of the columns."""
        return [self.text(row, column) for column in self.columns]

    def flat(self, rows: Sequence[Row]) -> list[dict[str, Scalar]]:
        """Return rows for programs: numbers as they are, a column for each part of an estimate and of a difference.

        Returns:
            Dictionaries of the same keys, without the parts that no row has.
        """
        flat_rows: list[dict[str, Scalar]] = []
        for row in rows:
            seed = row.cells.get("seed") if row.kind is RowKind.TRIAL else None
            flat: dict[str, Scalar] = {
                "row": row.kind.value,
                "advised": row.is_advised,
                "tied": row.is_tied,
                "tied_p": row.tied_p,
                "seed": seed if isinstance(seed, int) else None,
            }
            for column in self.columns:
                key, value = column.key, row.cells.get(column.key)
                names: tuple[str, ...]
                parts: tuple[Scalar, ...]
                if column.kind is ColumnKind.MEASURE:
                    e = value if isinstance(value, Estimate) else None
                    parts = (None,) * 5 if e is None else (e.value, e.low, e.high, e.spread, e.rows)
                    names = (key, f"{key} low", f"{key} high", f"{key} spread", f"{key} rows")
                    flat |= dict(zip(names, parts, strict=True))
                elif column.kind is ColumnKind.DIFFERENCE:
                    d = value if isinstance(value, Difference) else None
                    parts = (None,) * 6
                    if d is not None:
                        parts = (d.baseline, d.value, d.low, d.high, d.holm_p, d.outcome.value)
                    names = (f"{key} against", key, *(f"{key} {part}" for part in ("low", "high", "holm_p", "outcome")))
                    flat |= dict(zip(names, parts, strict=True))
                elif isinstance(value, tuple):  # `3-5` would be a date to a spreadsheet
                    flat[key] = " ".join(map(str, value))
                elif not isinstance(value, Estimate | Difference):
                    flat[key] = value
            flat_rows.append(flat)
        # A column for each part is the same for every row, but most tables have no spread or no interval at all.
        empty = [key for key in (flat_rows[0] if flat_rows else ()) if all(row[key] in (None, "") for row in flat_rows)]
        return [{key: value for key, value in row.items() if key not in empty} for row in flat_rows]

    # Parts of it

    def column_of(self, kind: ColumnKind) -> Column | None:
        """Return the first column of a kind."""
        return next((column for column in self.columns if column.kind is kind), None)

    def best(self, count: int) -> ComparisonTable:
        """Return the table with at most `count` points: where there are more, the best of them, the best first."""
        # A sweep may have thousands of points; a terminal, a note and a notebook show the ones that a reader may use.
        points, measure = self.points, self._deciding
        if len(points) <= count:
            return self

        def rank(row: Row) -> tuple[bool, bool, float, int]:
            # The advised point first, then the rest of the tied set, then by the measure that decides.
            estimate = row.cells.get(measure.name) if measure else None
            merit = float("inf")
            if measure is not None and isinstance(estimate, Estimate) and estimate.value == estimate.value:  # not NaN
                merit = -estimate.value if measure.higher_is_better else estimate.value
            return not row.is_advised, not row.is_tied, merit, row.point or 0

        ranked = sorted(points, key=rank)[:count]
        return replace(self, rows=(*ranked, *self.baselines), left_out=self.left_out + len(points) - count)

    def without(self, keys: Iterable[str]) -> ComparisonTable:
        """Return the table without some columns."""
        dropped = set(keys)
        return replace(self, columns=tuple(column for column in self.columns if column.key not in dropped))

    def trials_of(self, row: Row) -> tuple[Row, ...]:
        """Return a row for each trial of a point; none for a baseline."""
        if row.kind is not RowKind.POINT or row.point is None:
            return ()
        measures = [column.measure for column in self.columns if column.measure is not None]
        point = self.verdict.points[row.point]
        rows = []
        for place in point.trials:
            trial = self.verdict.trials[place]
            cells: dict[str, Cell] = {
                "point": trial.point,
                "sweep": _short_id(self.verdict, trial),
                "trials": (place,),
                **point.overrides,
                "state": _states([trial]),
                "seed": trial.record.settings.seed,
                **{m.name: Estimate(trial.metrics[m.name]) for m in measures if m.name in trial.metrics},
                "tokens": trial.record.tokens,
                "curve": trial.advice.summary if trial.advice else "",
            }
            rows.append(Row(RowKind.TRIAL, cells, trial.point, row.is_advised, row.is_tied))
        return tuple(rows)

    # As other libraries and people want it

    def render(self, name: str) -> str:
        """Return the table as text of some kind: `csv`, `html`, `json`, `latex`, `markdown`, `note`, `terminal`.

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


def _point_row(verdict: Verdict, point: PointResult, columns: Sequence[Column]) -> Row:
    trials = [verdict.trials[place] for place in point.trials]
    against = next((each for each in point.against if each.baseline == verdict.decision.against), None)
    means: dict[str, Cell] = {}
    for measure in (column.measure for column in columns):
        # Seconds and training losses have no rows, and so no interval: the mean over seeds is all there is.
        if measure is not None and measure not in verdict.measures:
            values = [trial.metrics[measure.name] for trial in trials if measure.name in trial.metrics]
            spread = stdev(values) if len(values) > 1 else None
            means[measure.name] = Estimate(fmean(values), spread=spread, seeds=len(values)) if values else None
    cells: dict[str, Cell] = {
        "point": point.number,
        "sweep": ", ".join(dict.fromkeys(_short_id(verdict, trial) for trial in trials)),
        "trials": point.trials,
        **point.overrides,
        "state": _states(trials),
        "seeds": sum(trial.state is JobState.SUCCEEDED for trial in trials),
        **means,
        **point.estimates,
        "difference": against,
        "p": None if against is None else against.p,
        "stopped_early": point.stopped.words if point.stopped else "",
        "consistency": point.consistency,
        "tokens": point.tokens,
        "curve": ", ".join(dict.fromkeys(trial.advice.summary for trial in trials if trial.advice)),
    }
    is_advised = point.number == verdict.decision.advised
    return Row(RowKind.POINT, cells, point.number, is_advised, point.is_tied, point.tied_p)


def _short_id(verdict: Verdict, trial: TrialResult) -> str:
    """A sweep's id without the experiment's name, which is in the title."""
    return trial.sweep.removeprefix(f"{verdict.sweep.experiment}-")


def _states(trials: Sequence[TrialResult]) -> str:
    if len(trials) > 1:
        counts = Counter(trial.state.value for trial in trials)
        return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} {state}" for state, n in counts.items())
    trial = trials[0]
    # How far a job came says more about one that failed or runs than its state alone.
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
