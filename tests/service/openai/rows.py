"""The row, the curve and the epochs of a tuned model, as the state stores them."""

from __future__ import annotations

from typing import Any

from tunerun.job import Snapshot
from tunerun.service.core.records import EpochRow, ModelState, TunedModelRow

KEY = "0123456789abcdef" * 4
CREATED = 1_800_000_000.25
TOTAL, PER_EPOCH = 6, 2


def row(**values: Any) -> TunedModelRow:
    """Return the row of a job of three epochs of two steps; it has succeeded unless `values` say otherwise."""
    own: dict[str, Any] = {
        "number": 1, "id": "router-1", "key": KEY, "folder": "router-1-0123", "display_name": "", "description": "",
        "base_model": "tiny", "source": None, "source_folder": None, "temperature": None, "top_p": None, "top_k": None,
        "reader_projects": (), "state": ModelState.ACTIVE, "created_at": CREATED, "updated_at": CREATED + 9,
        "started_at": CREATED + 1, "completed_at": CREATED + 9, "epoch_count": 3, "batch_size": 4,
        "learning_rate": 0.0005, "learning_rate_multiplier": 0.5, "total_steps": TOTAL, "operation": "1",
        "is_cancelling": False, "can_answer": True, "error_code": None, "error_message": None, "seed": 7,
        "suffix": "router", "metadata": {"team": "a"}, "keeps_epochs": True, "trained_tokens": 99,
        "notes": {"training_file": "file-ua", "validation_file": "file-ub", "model": "tiny"},
    }  # fmt: skip
    return TunedModelRow(**own | values)


def running(**values: Any) -> TunedModelRow:
    """Return the row of the same job while it trains."""
    return row(**{"state": ModelState.CREATING, "completed_at": None, "can_answer": False} | values)


CURVE = [Snapshot(n, (n - 1) // PER_EPOCH + 1, 1 / n, CREATED + 1 + n) for n in range(1, TOTAL + 1)]
EPOCHS = [EpochRow(KEY, e, e * PER_EPOCH, 0.5 / e, f"epoch-{e}", CREATED + 1.5 + e * PER_EPOCH) for e in (1, 2, 3)]


def steps(before: int, size: int) -> list[Snapshot]:
    """Return the newest steps before one, as the state does."""
    return [one for one in reversed(CURVE) if one.step < before][:size]
