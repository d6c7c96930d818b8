"""Events, checkpoints and results are derived from a job's row, its curve and its epochs."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from openai.types.fine_tuning import FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from tests.service.openai.rows import CURVE, EPOCHS, KEY, row, running, steps
from tests.service.openai.strict import parsed
from tunerun.service.core.problems import Code
from tunerun.service.core.records import EpochRow, ModelState, TunedModelRow
from tunerun.service.openai import checkpoints, events
from tunerun.service.openai.checkpoints import step_metrics


def of(job: TunedModelRow, epochs: list[EpochRow] | None = None, size: int = 100) -> list[FineTuningJobEvent]:
    """Return all events of a job, oldest first."""
    newest = events.newest(job, EPOCHS if epochs is None else epochs, steps, events.AFTER_ALL, size)
    return [parsed(FineTuningJobEvent, event.json(job)) for event in reversed(newest)]


def test_a_finished_jobs_events_are_in_openais_words() -> None:
    """From creation to the end, with the losses of each step and the checkpoint of each epoch."""
    job_events = of(row())
    assert [event.message for event in job_events if event.type == "message"] == [
        "Created fine-tuning job: ftjob-0123456789abcdef01234567",
        "Validating training file: file-ua and validation file: file-ub",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        *(
            f"Checkpoint created at step {step} with Snapshot ID: ft:tiny:tunerun:router:01234567:ckpt-step-{step}"
            for step in (2, 4, 6)
        ),
        "New fine-tuned model created: ft:tiny:tunerun:router:01234567",
        "The job has successfully completed",
    ]
    metrics = [event for event in job_events if event.type == "metrics"]
    assert [re.match(r"Step (\d+)/6: training loss=", event.message)[1] for event in metrics] == list("123456")  # type: ignore[index]
    assert metrics[0].data == {"step": 1, "total_steps": 6, "train_loss": 1.0}
    assert metrics[1].data == {
        "step": 2, "total_steps": 6, "train_loss": 0.5, "valid_loss": 0.5, "full_valid_loss": 0.5,
    }  # fmt: skip
    assert metrics[1].message == "Step 2/6: training loss=0.50, validation loss=0.50, full validation loss=0.50"
    assert [event.created_at for event in job_events] == sorted(event.created_at for event in job_events)
    assert len({event.id for event in job_events}) == len(job_events)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_contain_each_event_once(size: int) -> None:
    """Newest first; the next page starts after the last id."""
    whole, ids, place = [event.id for event in of(row())][::-1], [], events.AFTER_ALL
    while page := events.newest(row(), EPOCHS, steps, place, size):
        assert len(page) <= size
        ids += [event.json(row())["id"] for event in page]
        place = events.read_id(row(), ids[-1])  # type: ignore[assignment]
        assert place is not None
    assert ids == whole


def test_an_epochs_last_step_waits_for_its_loss() -> None:
    """A client does not read a step again that it has read without its validation loss."""
    job_events = of(running(), EPOCHS[:1])
    assert [event.data["step"] for event in job_events if event.type == "metrics"] == [1, 2, 3]  # type: ignore[index]
    job_events = of(running(keeps_epochs=False, notes={}), [])
    assert [event.data["step"] for event in job_events if event.type == "metrics"] == [1, 2, 3, 4, 5, 6]  # type: ignore[index]


def test_the_last_event_says_how_a_job_ended() -> None:
    """A warning if it was cancelled, an error if it has failed; a running job does not have one."""
    failed = row(state=ModelState.FAILED, error_code=13, error_message="diverged: the loss is NaN")
    assert (of(failed)[-1].level, of(failed)[-1].message) == ("error", "The job failed: diverged: the loss is NaN")
    cancelled = row(state=ModelState.FAILED, error_code=Code.CANCELLED.number, error_message="cancelled")
    for job in (cancelled, running(is_cancelling=True)):
        last = of(job)[-1]
        assert (last.level, last.message) == ("warn", "Fine tuning process stopping due to job cancellation")
    assert of(running())[-1].type == "message"  # a checkpoint
    assert len(of(running(started_at=None), [], 3)) == 3


def test_an_event_id_belongs_to_one_job() -> None:
    """Ids of other jobs and other texts are not read."""
    identifier = of(row())[0].id
    assert events.read_id(row(), identifier) is not None
    assert events.read_id(row(key="f" * 64), identifier) is None
    assert events.read_id(row(), "ftevent-x") is None


def test_checkpoints_have_the_sdks_type() -> None:
    """The last one of a finished job has the name of the model; while the job runs, each has its own."""
    of_job = [parsed(FineTuningJobCheckpoint, checkpoints.checkpoint(row(), e, CURVE[e.step - 1])) for e in EPOCHS]
    name = "ft:tiny:tunerun:router:01234567"
    assert [one.fine_tuned_model_checkpoint for one in of_job] == [
        f"{name}:ckpt-step-2", f"{name}:ckpt-step-4", name,
    ]  # fmt: skip
    assert [one.step_number for one in of_job] == [2, 4, 6]
    first = of_job[0].metrics
    assert (first.train_loss, first.full_valid_loss, first.step) == (0.5, 0.5, 2)
    last = checkpoints.checkpoint(running(), replace(EPOCHS[2], validation_loss=None), None)
    assert last["fine_tuned_model_checkpoint"] == f"{name}:ckpt-step-6"
    assert last["metrics"] == {"step": 6}
    assert last["fine_tuning_job_id"] == f"ftjob-{KEY[:24]}"


def test_the_result_file_has_openais_columns() -> None:
    """A row for each step, with unrounded numbers; cells of values that were not measured are empty."""
    assert step_metrics(CURVE[:3], EPOCHS).decode().splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
        "1,1.0,,,",
        "2,0.5,,0.5,",
        f"3,{1 / 3!r},,,",
    ]
