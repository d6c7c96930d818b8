"""What a job measured: its checkpoints with their losses, and the result file with the losses of all steps.

A checkpoint is the tuned model after an epoch, callable under a name of its own.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from tunerun.job import Snapshot
from tunerun.service.core.problems import Json
from tunerun.service.core.records import EpochRow, ModelState, TunedModelRow
from tunerun.service.openai import names

PAGE = 10
"""The default page size, as OpenAI's."""


def losses_of(snapshot: Snapshot | None, epoch: EpochRow | None) -> dict[str, float]:
    """Return the losses after a step, by OpenAI's names; losses that were not measured or are not finite are omitted.

    Args:
        snapshot: the loss curve's point at the step; None: not recorded.
        epoch: the epoch that ends with the step; None: none does.
    """
    # The held-out loss is measured on all held-out examples, which is OpenAI's `full_valid_loss`. OpenAI measures
    # `valid_loss` on a sample; here it is the same number.
    held_out = None if epoch is None else epoch.validation_loss
    losses = {
        "train_loss": None if snapshot is None else snapshot.mean_loss,
        "valid_loss": held_out,
        "full_valid_loss": held_out,
    }
    # JSON has neither NaN nor infinity, which the losses of a diverging job can be.
    return {name: loss for name, loss in losses.items() if loss is not None and math.isfinite(loss)}


def checkpoint_name(row: TunedModelRow, epoch: EpochRow) -> str:
    """Return the name of a checkpoint; the last one of a finished job has the name of the tuned model."""
    # As at OpenAI, where the list of a finished job starts with the model itself, without `:ckpt-step-N`.
    is_last = epoch.epoch == row.epoch_count and row.state is ModelState.ACTIVE
    return names.model_name(row, None if is_last else epoch.step)


def checkpoint(row: TunedModelRow, epoch: EpochRow, snapshot: Snapshot | None) -> Json:
    """Return a checkpoint as the wire's JSON.

    Args:
        row: the tuned model.
        epoch: the epoch after which the checkpoint was written.
        snapshot: the loss curve's point at its step; None: not recorded.
    """
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": names.checkpoint_id(row, epoch.epoch),
        "created_at": int(epoch.created_at),
        "fine_tuned_model_checkpoint": checkpoint_name(row, epoch),
        "fine_tuning_job_id": names.job_id(row),
        "metrics": {"step": epoch.step, **losses_of(snapshot, epoch)},
        "step_number": epoch.step,
    }


# The columns of OpenAI's file; accuracies are not measured here. Plain text, as its documents say and Azure sends it,
# although OpenAI's own content has been seen in base64.
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
