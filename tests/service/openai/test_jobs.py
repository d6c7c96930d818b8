"""The JSON of a job has the SDK's type in every state."""

from __future__ import annotations

import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.service.openai.rows import CREATED, row, running
from tests.service.openai.strict import parsed
from tunerun.job import Snapshot
from tunerun.service.core.problems import Code
from tunerun.service.core.records import ModelState, TunedModelRow
from tunerun.service.openai.jobs import estimated_finish, job

CANCELLED = {"state": ModelState.FAILED, "error_code": Code.CANCELLED.number, "error_message": "cancelled on request"}
NAME = "ft:tiny:tunerun:router:01234567"


@pytest.mark.parametrize(
    ("of", "status"),
    [
        (running(started_at=None), "queued"),
        (running(), "running"),
        (row(), "succeeded"),
        (row(state=ModelState.FAILED, error_code=13, error_message="diverged: NaN"), "failed"),
        (row(**CANCELLED), "cancelled"),
        (running(is_cancelling=True), "cancelled"),
    ],
)
def test_a_job_has_the_sdks_type_in_every_state(of: TunedModelRow, status: str) -> None:
    """Fields about its end are null before."""
    parsed_job = parsed(FineTuningJob, job(of))
    assert parsed_job.status == status
    assert (parsed_job.finished_at is None) == (status in ("queued", "running"))
    assert parsed_job.fine_tuned_model == (NAME if status == "succeeded" else None)
    assert len(parsed_job.result_files) == (status == "succeeded")
    assert parsed_job.trained_tokens == (99 if status == "succeeded" else None)
    assert (parsed_job.error is None) == (status != "failed")
    assert parsed_job.hyperparameters.model_dump() == {
        "batch_size": 4, "learning_rate_multiplier": 0.5, "n_epochs": 3,
    }  # fmt: skip
    assert (parsed_job.seed, parsed_job.metadata, parsed_job.training_file, parsed_job.validation_file) == (
        7, {"team": "a"}, "file-ua", "file-ub",
    )  # fmt: skip


def test_a_failed_job_says_why() -> None:
    """With a message for people and a code for programs."""
    codes = {Code.INTERNAL: "server_error", Code.RESOURCE_EXHAUSTED: "out_of_memory"}
    for code, word in codes.items():
        parsed_job = parsed(
            FineTuningJob, job(row(state=ModelState.FAILED, error_code=code.number, error_message="why"))
        )
        assert parsed_job.error is not None
        assert (parsed_job.error.code, parsed_job.error.message, parsed_job.error.param) == (word, "why", None)


def test_the_message_of_a_failure_has_this_wires_names() -> None:
    """The engine's message has the keys of an experiment."""
    why = "diverged: lower hyperparameters.learning_rate, or hyperparameters.epoch_count"
    error = job(row(state=ModelState.FAILED, error_code=13, error_message=why))["error"]
    assert error["message"] == "diverged: lower hyperparameters.learning_rate_multiplier, or hyperparameters.n_epochs"


def test_only_a_paused_job_is_shown_as_paused() -> None:
    """Other jobs do not have this state, which the SDK's strict mode rejects."""
    assert job(running(is_paused=True))["status"] == "paused"


def test_the_end_of_a_running_job_is_estimated_by_its_pace() -> None:
    """Three of six steps took 30 seconds, so 30 remain; there is no estimate before the second step or at the end."""
    newest = [Snapshot(step, 1, 0.5, CREATED + 10 + 10 * step) for step in (3, 2, 1, 0)]
    assert estimated_finish(running(), newest) == round(CREATED + 70)
    assert estimated_finish(running(), newest[-1:]) is None
    assert job(running(), 7)["estimated_finish"] == 7
    assert job(row(), 7)["estimated_finish"] is None
