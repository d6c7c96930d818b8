"""A fine-tuning job as the wire's JSON, built from the row of its tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunerun.job import BASE_LEARNING_RATE
from tunerun.service.core.problems import Code, Json
from tunerun.service.core.records import TunedModelRow
from tunerun.service.openai import names
from tunerun.service.openai.status import Status, failure_of, status_of
from tunerun.stored import read_stored

PAGE = 20
"""The default page size, as OpenAI's."""

ERROR_CODES = {
    Code.INVALID_ARGUMENT.number: "invalid_hyperparameters",
    Code.RESOURCE_EXHAUSTED.number: "out_of_memory",
}
"""Our error codes of failed jobs; any other failure is `server_error`. OpenAI's codes concern files, which this service
checks before it accepts a job."""


NOTED = "training_file"
"""The key in `TunedModelRow.notes` that identifies jobs of this wire."""


@dataclass(frozen=True)
class Notes:
    """What is stored of a job's request, in `TunedModelRow.notes`.

    Attributes:
        training_file, validation_file: ids of the files.
        model: the model name in the request.
        request: digest of the body, to recognise an SDK's retry.
    """

    training_file: str = ""
    validation_file: str | None = None
    model: str = ""
    request: str = ""


@dataclass(frozen=True)
class Pace:
    """The speed of a running job.

    Attributes:
        steps: number of steps between two times.
        seconds: the seconds between them.
        last: number of the newest step.
        at: when the newest step ended, in seconds since 1970 (UTC).
    """

    steps: int
    seconds: float
    last: int
    at: float

    def end(self, total_steps: int) -> int | None:
        """Estimate when all steps will be done, in seconds since 1970 (UTC); None: unknown."""
        if self.steps < 1:
            return None
        return round(self.at + (total_steps - self.last) * self.seconds / self.steps)


def notes_of(row: TunedModelRow) -> Notes:
    """Return the notes of a row."""
    return read_stored(Notes, row.notes)


def is_job(row: TunedModelRow) -> bool:
    """Whether a tuned model was created by a job of this wire; the Gemini wire has no training files."""
    return bool(notes_of(row).training_file)


def job(row: TunedModelRow, pace: Pace | None = None) -> Json:
    """Return a tuned model's job as the wire's JSON.

    Args:
        row: the tuned model.
        pace: the speed of a running job; None: unknown.
    """
    status, notes = status_of(row), notes_of(row)
    hyperparameters = _hyperparameters(row)
    is_running = status is Status.RUNNING and pace is not None
    return {
        "object": "fine_tuning.job",
        "id": names.job_id(row),
        "created_at": int(row.created_at),
        "finished_at": int(row.completed_at or row.updated_at) if status.is_finished else None,
        "estimated_finish": pace.end(row.total_steps) if is_running and pace is not None else None,
        "status": status,
        "model": notes.model or row.base_model,
        "fine_tuned_model": names.model_name(row) if status is Status.SUCCEEDED else None,
        "organization_id": names.ORGANIZATION,
        "training_file": notes.training_file,
        "validation_file": notes.validation_file,
        "result_files": [names.result_file_id(row)] if status is Status.SUCCEEDED else [],
        "trained_tokens": row.trained_tokens if status is Status.SUCCEEDED else None,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": row.seed,
        "error": _error(row) if status is Status.FAILED else None,
        "integrations": [],
        "metadata": dict(row.metadata) or None,
    }


def _hyperparameters(row: TunedModelRow) -> Mapping[str, Any]:
    """Return the hyperparameters in use; a missing multiplier is computed from the learning rate."""
    multiplier = row.learning_rate_multiplier
    return {
        "n_epochs": row.epoch_count,
        "batch_size": row.batch_size,
        "learning_rate_multiplier": row.learning_rate / BASE_LEARNING_RATE if multiplier is None else multiplier,
    }


def _error(row: TunedModelRow) -> Json:
    code = ERROR_CODES.get(row.error_code or 0, "server_error")
    return {"code": code, "message": failure_of(row), "param": None}
