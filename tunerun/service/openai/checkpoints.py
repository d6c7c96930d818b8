"""A job's checkpoints: the tuned model as it was after each epoch, which can be called by its own name."""

from __future__ import annotations

import math

from tunerun.job import Snapshot
from tunerun.service.core.problems import Json
from tunerun.service.core.records import EpochRow, ModelState, TunedModelRow
from tunerun.service.openai import names

PAGE = 10
"""The default page size, as OpenAI's."""


def losses_of(snapshot: Snapshot | None, epoch: EpochRow | None) -> dict[str, float]:
    """The losses after a step, by OpenAI's names; those that were not measured or are not finite are omitted.

    A loss of the examples held out is of all of them, which OpenAI calls full; what it samples at other steps is not
    measured here, so both of its names have the one number.
    """
    held_out = None if epoch is None else epoch.validation_loss
    found = {
        "train_loss": None if snapshot is None else snapshot.mean_loss,
        "valid_loss": held_out,
        "full_valid_loss": held_out,
    }
    return {name: loss for name, loss in found.items() if loss is not None and math.isfinite(loss)}


def checkpoint_name(row: TunedModelRow, epoch: EpochRow) -> str:
    """The name of a checkpoint; the last one of a finished job is the tuned model itself."""
    is_last = epoch.epoch == row.epoch_count and row.state is ModelState.ACTIVE
    return names.model_name(row, None if is_last else epoch.step)


def checkpoint(row: TunedModelRow, epoch: EpochRow, snapshot: Snapshot | None) -> Json:
    """A checkpoint as the wire's JSON.

    Args:
        snapshot: of its step.
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
