"""Pictures of a comparison: the points against the baseline that is hardest to beat, and the loss curves."""

from __future__ import annotations

from collections.abc import Mapping

from tunerun.comparison import labels
from tunerun.comparison.columns import ColumnKind
from tunerun.comparison.results import Difference
from tunerun.comparison.table import ComparisonTable
from tunerun.ledger import Ledger
from tunerun.metrics import Unit

FILE = "loss.png"
POINTS_FILE = "points.png"

MAX_POINTS = 40
"""Maximum number of points in the picture; the best are drawn."""


def files(table: ComparisonTable, ledger: Ledger) -> Mapping[str, bytes]:
    """Return `points.png` and `loss.png`; neither where there is nothing to draw."""
    drawn = {POINTS_FILE: _points(table), FILE: _losses(table, ledger)}
    return {name: content for name, content in drawn.items() if content is not None}


def _points(table: ComparisonTable) -> bytes | None:
    from tunerun.plots import Interval, interval_plot

    verdict, decision = table.verdict, table.decision
    column = table.column_of(ColumnKind.DIFFERENCE)
    measure = next((each for each in verdict.measures if each.name == decision.metric), None)
    if column is None or measure is None:
        return None
    # Differences and not values: on the same rows two models may differ clearly although their own intervals overlap.
    factor = 100 if measure.unit is Unit.SHARE else 1
    intervals = []
    for row in table.best(MAX_POINTS).points:
        difference = row.cells.get(column.key)
        if isinstance(difference, Difference) and row.point is not None:
            words = labels.label(verdict.points[row.point].overrides)
            name = " ".join(part for part in (row.mark, f"point {row.point}") if part) + (f": {words}" if words else "")
            ends = (factor * difference.value, factor * difference.low, factor * difference.high)
            intervals.append(Interval(name, *ends, is_best=row.is_advised))
    if not intervals:
        return None
    unit = "percentage points" if measure.unit is Unit.SHARE else measure.unit.value
    title = f"{verdict.sweep.experiment}: {measure.name} against {decision.against}"
    confidence = f"{100 * (1 - decision.alpha):g} % intervals of the family"
    return interval_plot(title, f"difference [{unit}], {confidence}", intervals)


def _losses(table: ComparisonTable, ledger: Ledger) -> bytes | None:
    from tunerun.plots import TrialCurve, sweep_plot

    verdict = table.verdict
    curves, names = [], []
    for place, trial in enumerate(verdict.trials):
        number = place if len(verdict.sweeps) > 1 else trial.record.number  # numbers of two sweeps would collide
        words = labels.label(trial.record.overrides)
        names.append(f"trial {number}: {words}" if words else f"trial {number}")
    for trial, name in zip(verdict.trials, names, strict=True):
        job = ledger.job(trial.record.key)
        snapshots = ledger.snapshots(job.id) if job is not None else []
        if job is not None and snapshots:
            losses = tuple(ledger.epoch_losses(job.id))
            curves.append(TrialCurve(name, tuple(snapshots), validation=losses))
    if not curves:
        return None
    best = None if verdict.best is None else names[verdict.best]
    return sweep_plot(f"{verdict.sweep.experiment}: mean loss by epoch", curves, best)
