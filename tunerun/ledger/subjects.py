"""Subjects: the names of a tracker's runs in the ledger's marks.

A trial that several sweeps of one MLflow experiment share is one subject, so that it is one run.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from tunerun.ledger.records import SweepRecord

if TYPE_CHECKING:
    from tunerun.ledger.ledger import Ledger


class RunKind(StrEnum):
    """The kind of a tracker's run."""

    TRIAL = "trial"
    BASELINE = "baseline"
    SWEEP = "sweep"


def subject_of_sweep(sweep_id: str) -> str:
    """Return the subject of a sweep's own run, in the ledger's marks."""
    return f"{sweep_id}/{RunKind.SWEEP}/"


def subject_of_baseline(sweep_id: str, key: str) -> str:
    """Return the subject of a baseline's run, in the ledger's marks.

    Args:
        sweep_id: the sweep that has the baseline.
        key: of the baseline's answers.
    """
    return f"{sweep_id}/{RunKind.BASELINE}/{key}"


def trial_prefix(experiment: str, rerun: str) -> str:
    """Return the prefix of the subjects of the trials of an MLflow experiment; the key follows.

    Args:
        experiment: its name.
        rerun: the tag `tunerun.rerun` of a rerun, whose trials have runs of their own; empty: of any other sweep.
    """
    return f"{experiment}/rerun/{rerun}/{RunKind.TRIAL}/" if rerun else f"{experiment}/{RunKind.TRIAL}/"


def key_of_subject(subject: str) -> str | None:
    """Return the key of the trial that a mark's subject names; None: it is not a trial's."""
    experiment, _, key = subject.rpartition(f"/{RunKind.TRIAL}/")
    return key if experiment else None


def sweep_of_subject(ledger: Ledger, subject: str) -> SweepRecord | None:
    """Return the sweep whose run a mark's subject names; of a trial that several share, the newest.

    Args:
        ledger: has the sweeps.
        subject: of a mark.

    Returns:
        None: the ledger has no such sweep.
    """
    key, newest_first = key_of_subject(subject), reversed(ledger.sweeps())
    if key is None:
        return next((sweep for sweep in newest_first if subject.startswith(f"{sweep.id}/")), None)
    for sweep in newest_first:
        is_alike = trial_prefix(sweep.mlflow_experiment, sweep.rerun) + key == subject
        if is_alike and any(trial.key == key for trial in ledger.trials(sweep.id)):
            return sweep
    return None
