"""Tuned models that were not tuned: adapters drawn at random, so that each has other answers."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.engine import tiny_model
from tunerun.engine import lora, tuned_model
from tunerun.engine.network import LoadedModel
from tunerun.job import BaseModelRef, JobState, TuningHyperparameters


def write(base: LoadedModel, model: BaseModelRef, number: int, folder: Path, *, rank: int, spread: float) -> Path:
    """Write a tuned model's folder.

    Args:
        number: what the adapter is drawn with.
        spread: standard deviation of B.
    """
    adapter = lora.fresh(base, TuningHyperparameters(adapter_rank=rank), number)
    drawn = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for _down, up in adapter.matrices.values():
            up.normal_(0, spread, generator=drawn)
    tuned_model.write(
        folder / str(number),
        tuned_model.record_of(tiny_model.request_of(model, seed=number), base.identity, base.chat, (), base.turns),
        tuned_model.FinishedJob("job", (), {}, JobState.SUCCEEDED, ()),
        lambda partial: adapter.save(base.public_name, partial),
    )
    return folder / str(number)
