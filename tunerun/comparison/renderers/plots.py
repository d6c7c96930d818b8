"""The loss curves of all trials as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from tunerun.comparison import labels
from tunerun.comparison.results import LOSS, TrialResult
from tunerun.comparison.table import ComparisonTable
from tunerun.ledger import Ledger

FILE = "loss.png"


def files(table: ComparisonTable, ledger: Ledger) -> Mapping[str, bytes]:
    """`loss.png`; nothing where no trial has taken a step."""
    from tunerun.report import Curve, sweep_plot

    verdict = table.verdict
    curves = []
    for trial in verdict.trials:
        job = ledger.job(trial.record.key)
        snapshots = ledger.snapshots(job.id) if job is not None else []
        if snapshots:
            losses = tuple(ledger.epoch_losses(job.id)) if job is not None else ()
            curves.append(Curve(_name(trial), tuple(snapshots), trial.metrics.get(LOSS), validation=losses))
    if not curves:
        return {}
    best = None if verdict.best is None else _name(verdict.trials[verdict.best])
    return {FILE: sweep_plot(f"{verdict.sweep.experiment}: mean loss by epoch", curves, best)}


def _name(trial: TrialResult) -> str:
    words = labels.label(trial.record.overrides)
    return f"trial {trial.record.number}: {words}" if words else f"trial {trial.record.number}"
