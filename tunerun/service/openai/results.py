"""The result file of a finished job: its losses by step, in OpenAI's format but not base64-encoded.

Numbers are not rounded, unlike OpenAI's five decimals, so that the file equals the job's curve. Token accuracies are
not measured; their columns exist, because readers expect them, and are empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tunerun.job import Snapshot
from tunerun.service.core.records import EpochRow
from tunerun.service.openai.checkpoints import losses_of

FILE_NAME = "step_metrics.csv"
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


def step_metrics(curve: Sequence[Snapshot], epochs: Sequence[EpochRow]) -> bytes:
    """Return the losses of a job as CSV: one row per step, with a validation loss where an epoch ended."""
    ends = {epoch.step: epoch for epoch in epochs}
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    for snapshot in curve:
        rows.writerow({"step": snapshot.step, **losses_of(snapshot, ends.get(snapshot.step))})
    return text.getvalue().encode()
