"""The columns that the table of a verdict needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tunerun.comparison import labels
from tunerun.comparison.results import EPOCH_LOSS, LOSS, Measure, Verdict
from tunerun.job import JobState
from tunerun.metrics import Unit

_LOSS = Measure(LOSS, Unit.NATS, higher_is_better=False)
_SECONDS = Measure("train/seconds", Unit.NUMBER, higher_is_better=False)
# Beside the measures that decide, and never instead of them: a low loss is a bad chooser (arXiv 2312.00949).
_ASIDE = (_LOSS, Measure(EPOCH_LOSS, Unit.NATS, higher_is_better=False), _SECONDS)
"""Measures that a backend gives, shown beside those of the evaluation."""

_TITLES = {EPOCH_LOSS: "training loss", _SECONDS.name: "seconds"}


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


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: its name in files for programs: a dotted key of the config, or a name that MLflow shows.
        title: its heading for people.
        measure: of a column of estimates.
        rank: how soon it is left out where there is little room: the highest first, 0 never. It grows with the distance
            from the decision.
    """

    key: str
    title: str
    kind: ColumnKind
    measure: Measure | None = None
    rank: int = 0


def measure_title(measure: Measure) -> str:
    """Return a measure's name for people: `exact match`, `validation loss`."""
    return _TITLES.get(measure.name) or measure.name.removeprefix("eval/").replace("_", " ").replace("/", " ")


def columns_of(verdict: Verdict) -> tuple[Column, ...]:
    """Choose the columns of a verdict: only those that have something to say, in the order in which people read them.

    The point and what it sets come first, then the measure that decides with its difference and p, then everything
    that helps to understand these.
    """
    has_several_seeds = any(len(point.trials) > 1 for point in verdict.points)
    varied = list(dict.fromkeys(key for point in verdict.points for key in point.overrides))
    heads = labels.short_names(varied)
    measured = {name for trial in verdict.trials for name in trial.metrics}
    own = {measure.name for measure in verdict.measures}

    columns = [Column("point", "point", ColumnKind.LABEL)]
    if len(verdict.sweeps) > 1:
        columns.append(Column("sweep", "sweep", ColumnKind.TEXT))
    # Where every point is one trial and every baseline belongs to all, numbers of trials would repeat the first column.
    if has_several_seeds or any(set(b.trials) != set(range(len(verdict.trials))) for b in verdict.baselines):
        columns.append(Column("trials", "trials", ColumnKind.TEXT, rank=5))
    columns += [Column(key, heads[key], ColumnKind.VALUE) for key in varied]
    # A column in which every row says SUCCEEDED has nothing to say.
    if any(trial.state is not JobState.SUCCEEDED for trial in verdict.trials):
        columns.append(Column("state", "state", ColumnKind.TEXT))
    if has_several_seeds:
        columns.append(Column("seeds", "seeds", ColumnKind.COUNT, rank=1))

    for place, measure in enumerate(verdict.measures):
        columns.append(_measure_column(measure, rank=2 if place else 0))
        if place == 0 and verdict.decision.against is not None:
            columns.append(Column("difference", f"vs {verdict.decision.against}", ColumnKind.DIFFERENCE))
            columns.append(Column("p", "p", ColumnKind.P, rank=1))
    if any(point.stopped for point in verdict.points):
        columns.append(Column("stopped_early", "stopped early", ColumnKind.TEXT))
    if any(point.consistency is not None for point in verdict.points):
        columns.append(Column("consistency", "consistency", ColumnKind.SHARE, rank=4))

    aside = [measure for measure in _ASIDE if measure.name in measured and measure.name not in own]
    columns += [_measure_column(measure, rank=3 if measure is _LOSS else 6) for measure in aside]
    if any(point.tokens for point in verdict.points):
        columns.append(Column("tokens", "tokens", ColumnKind.COUNT, rank=7))
    if any(trial.advice for trial in verdict.trials):
        columns.append(Column("curve", "loss curve", ColumnKind.TEXT, rank=5))
    return tuple(columns)


def _measure_column(measure: Measure, rank: int) -> Column:
    return Column(measure.name, measure_title(measure), ColumnKind.MEASURE, measure, rank)
