"""The durable record of plans, jobs, snapshots and evaluations; its promises stand in `ledger.py`."""

from tunerun.ledger.ledger import FILE_NAME, Ledger
from tunerun.ledger.migrations import SCHEMA_VERSION
from tunerun.ledger.records import (
    Evaluation,
    JobRecord,
    Mark,
    Prediction,
    Spending,
    SweepRecord,
    TrialProgress,
    TrialRecord,
)

__all__ = [
    "FILE_NAME",
    "SCHEMA_VERSION",
    "Evaluation",
    "JobRecord",
    "Ledger",
    "Mark",
    "Prediction",
    "Spending",
    "SweepRecord",
    "TrialProgress",
    "TrialRecord",
]
