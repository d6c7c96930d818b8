"""The result file of a finished job: its losses by step, as OpenAI writes them, but not in base64.

The numbers are as they were measured: OpenAI rounds to five decimals, by which a curve would no longer equal its own.
Accuracies of tokens are not measured here; their columns are there, because readers look for them, and empty.
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
    """The losses of a job as CSV, a row for each step; a validation loss where an epoch ended."""
    ends = {epoch.step: epoch for epoch in epochs}
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    for snapshot in curve:
        rows.writerow({"step": snapshot.step, **losses_of(snapshot, ends.get(snapshot.step))})
    return text.getvalue().encode()
