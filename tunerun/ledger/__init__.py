"""The durable record of plans, jobs, snapshots and answers; `ledger.py` lists its guarantees."""

from tunerun.ledger.answers import LOSSES, StoredAnswers, asked_by, holds_texts
from tunerun.ledger.ledger import FILE_NAME, Ledger
from tunerun.ledger.migrations import SCHEMA_VERSION
from tunerun.ledger.ratings import rated_by
from tunerun.ledger.records import (
    BaselineRecord,
    JobRecord,
    Mark,
    Opening,
    Spending,
    SweepRecord,
    TrialProgress,
    TrialRecord,
    TrialSettings,
)
from tunerun.ledger.stops import Stop, stopped_by

__all__ = [
    "FILE_NAME",
    "LOSSES",
    "SCHEMA_VERSION",
    "BaselineRecord",
    "JobRecord",
    "Ledger",
    "Mark",
    "Opening",
    "Spending",
    "Stop",
    "StoredAnswers",
    "SweepRecord",
    "TrialProgress",
    "TrialRecord",
    "TrialSettings",
    "asked_by",
    "holds_texts",
    "rated_by",
    "stopped_by",
]
