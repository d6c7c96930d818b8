"""Fine-tuning jobs of the wire: requests, results, pausing, cancelling and deletion."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI

from tests.rigs.running_service import RunningService
from tests.service.client import Client
from tests.service.openai.conftest import client_of
from tests.service.openai.training import LONG, created, ended, hyperparameters, jsonl, messages, underway
from tunerun.examples import Example
from tunerun.service.openai.method import IGNORED_HEADER


def test_a_job_creates_a_model_with_checkpoints_and_a_curve(sdk: OpenAI, training_file: str) -> None:
    """As in docs/serve.md: upload, create, watch, and read the results; the file may be deleted meanwhile."""
    jobs = sdk.fine_tuning.jobs
    job = created(sdk, training_file, validation_file=training_file, suffix="My Router", seed=5)
    sdk.files.delete(training_file)
    assert (job.status, job.fine_tuned_model, job.seed) == ("queued", None, 5)
    assert job.hyperparameters.model_dump() == {"n_epochs": 2, "batch_size": 3, "learning_rate_multiplier": 10.0}
    job = ended(sdk, job.id)
    assert job.status == "succeeded"
    assert job.error is None
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith("ft:tiny:tunerun:my-router:")
    assert (job.trained_tokens or 0) > 0
    assert job.finished_at is not None
    points = list(jobs.checkpoints.list(job.id, limit=1))
    name = job.fine_tuned_model
    assert [point.fine_tuned_model_checkpoint for point in points] == [name, f"{name}:ckpt-step-3"]
    assert [point.step_number for point in points] == [6, 3]
    assert all(point.metrics.full_valid_loss and point.metrics.train_loss for point in points)
    events = list(jobs.list_events(job.id, limit=1))[::-1]
    assert events[0].message == f"Created fine-tuning job: {job.id}"
    assert events[-1].message == "The job has successfully completed"
    losses: list[Any] = [event.data for event in events if event.type == "metrics"]
    rows = [line.split(",") for line in sdk.files.content(job.result_files[0]).text.splitlines()[1:]]
    assert [(row[0], row[1]) for row in rows] == [(str(data["step"]), repr(data["train_loss"])) for data in losses]
    result = sdk.files.retrieve(job.result_files[0])
    assert (result.filename, result.purpose) == ("step_metrics.csv", "fine-tune-results")
    assert [file.id for file in sdk.files.list(purpose="fine-tune-results")] == job.result_files
    with pytest.raises(BadRequestError, match="delete that job's model"):
        sdk.files.delete(job.result_files[0])


def test_older_requests_and_auto_are_resolved_in_the_job(sdk: OpenAI, training_file: str) -> None:
    """LiteLLM, DSPy and Kiln send hyperparameters at the top level, also empty; `auto` is 14 epochs of seven rows."""
    requests: list[dict[str, Any]] = [
        {"hyperparameters": {}},
        {"hyperparameters": {"n_epochs": "auto", "batch_size": "auto"}},
        {"method": {"type": "supervised"}},
        {"seed": None, "suffix": None, "validation_file": None, "metadata": None, "integrations": []},
    ]
    for more in requests:
        job = sdk.fine_tuning.jobs.create(model="tiny", training_file=training_file, **more)
        resolved = job.hyperparameters.model_dump()
        assert resolved == {"n_epochs": 14, "batch_size": 4, "learning_rate_multiplier": 1.0}, more
        assert job.method is not None
        assert job.method.supervised is not None
        assert job.method.supervised.hyperparameters is not None
        assert job.method.supervised.hyperparameters.model_dump() == resolved
        sdk.fine_tuning.jobs.cancel(job.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "gpt-4o-mini"}, "model"),
        ({"model": "ft:tiny:tunerun:x:01234567"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-none"}, "validation_file"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "___"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"method": {"type": "dpo", "dpo": {}}}, "method.type"),
        ({"method": {"type": "supervised", "reinforcement": {}}}, "method.reinforcement"),
        ({"method": {"type": "supervised"}, "hyperparameters": {}}, "hyperparameters"),
        ({"hyperparameters": {"n_epochs": 1.5}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": -(10**400)}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": "all"}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"batch_size": 10**400}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"n_epochs": 2**31 - 1, "batch_size": 1}}, "hyperparameters.n_epochs"),
        *(
            (
                {"method": hyperparameters(learning_rate_multiplier=multiplier)},
                "method.supervised.hyperparameters.learning_rate_multiplier",
            )
            for multiplier in (0, 1e-40, 10**400)
        ),
    ],
)
def test_an_invalid_request_is_refused_with_its_field(
    sdk: OpenAI, training_file: str, fields: dict[str, Any], param: str
) -> None:
    """As a 400, which clients do not retry; no job is created."""
    with pytest.raises(BadRequestError) as refused:
        sdk.fine_tuning.jobs.create(**{"model": "tiny", "training_file": training_file} | fields)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert not sdk.fine_tuning.jobs.list().data


def test_a_file_of_another_purpose_is_not_trained_on(sdk: OpenAI) -> None:
    """The message names the purpose that is required."""
    file = sdk.files.create(file=("a.jsonl", jsonl()), purpose="batch")
    with pytest.raises(BadRequestError, match="send it with purpose 'fine-tune'") as refused:
        created(sdk, file.id)
    assert refused.value.param == "training_file"


def test_a_row_that_exceeds_the_context_is_named(sdk: OpenAI) -> None:
    """Before the job starts, by its position in the file."""
    rows = [messages(Example("1", "2")), messages(Example("long " * 200, "2"))]
    file = sdk.files.create(file=("a.jsonl", jsonl(rows)), purpose="fine-tune")
    with pytest.raises(BadRequestError, match="limit of models/tiny is 128") as refused:
        created(sdk, file.id)
    assert refused.value.param == "training_file[1]"


def test_unknown_fields_are_ignored_and_listed(running: RunningService, sdk: OpenAI, training_file: str) -> None:
    """At any depth: newer clients send them."""
    request = {
        "model": "tiny", "training_file": training_file, "priority": "high",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"rank": 4}}},
    }  # fmt: skip
    headers = {"authorization": f"Bearer {sdk.api_key}"}
    url = f"{running.address}/v1/fine_tuning/jobs"
    response = httpx.post(url, json=request, headers=headers, trust_env=False, timeout=60)
    assert response.status_code == 200, response.text
    assert response.headers[IGNORED_HEADER].split(", ") == ["priority", "hyperparameters.rank"]


def test_a_retry_of_the_sdk_returns_the_same_job(running: RunningService, sdk: OpenAI, training_file: str) -> None:
    """The SDK marks retries; another request is another job, and so is a retry with another body."""
    headers = {"authorization": f"Bearer {sdk.api_key}"}

    def create(count: int, suffix: str = "a") -> str:
        request = {"model": "tiny", "training_file": training_file, "suffix": suffix, "method": hyperparameters()}
        more = {**headers, "x-stainless-retry-count": str(count)}
        url = f"{running.address}/v1/fine_tuning/jobs"
        response = httpx.post(url, json=request, headers=more, trust_env=False, timeout=60)
        return str(response.json()["id"])

    first = create(0)
    assert create(1) == first
    assert create(2) == first
    assert create(0) != first
    assert create(1, suffix="b") not in (first, "None")
    assert len(sdk.fine_tuning.jobs.list().data) == 3


def test_jobs_are_listed_newest_first_and_filtered_by_metadata(
    sdk: OpenAI, training_file: str, running: RunningService
) -> None:
    """Also one at a time; keys may contain any characters; null selects jobs without metadata."""
    escaped = {'a b"[]': "c/d&"}
    words: list[Any] = [{"team": "a"}, {"team": "b"}, escaped, None, {"team": "a", "x": ""}]
    made = [created(sdk, training_file, metadata=one).id for one in words]
    jobs = sdk.fine_tuning.jobs
    assert [job.id for job in jobs.list(limit=1)] == made[::-1]
    assert [job.id for job in jobs.list(limit=1, metadata={"team": "a"})] == [made[4], made[0]]
    assert [job.id for job in jobs.list(metadata=escaped)] == [made[2]]
    assert [job.id for job in jobs.list(metadata={"team": "a", "x": ""})] == [made[4]]
    assert [job.id for job in jobs.list(extra_query={"metadata": "null"})] == [made[3]]
    assert jobs.list(limit=5).has_more is False
    with pytest.raises(BadRequestError, match="after: "):
        jobs.list(after="ftjob-none")
    with Client(running.address, sdk.api_key) as gemini:  # models of the Gemini wire are not jobs
        gemini.tuned("other-wire")
    assert [job.id for job in jobs.list()] == made[::-1]


def test_a_job_is_cancelled_unless_it_has_finished(sdk: OpenAI, training_file: str) -> None:
    """The next job starts; cancelling again changes nothing; a finished job is refused with a 400."""
    jobs = sdk.fine_tuning.jobs
    job = created(sdk, training_file, method=hyperparameters(n_epochs=LONG))
    underway(sdk, job.id)
    running = jobs.retrieve(job.id)
    assert running.status == "running"
    assert running.estimated_finish is not None
    assert running.estimated_finish > running.created_at
    queued = created(sdk, training_file, method=hyperparameters(n_epochs=LONG))
    assert jobs.cancel(queued.id).status == "cancelled"
    for _ in range(2):
        assert jobs.cancel(job.id).status == "cancelled"
    done = ended(sdk, created(sdk, training_file).id)
    assert done.status == "succeeded"
    with pytest.raises(BadRequestError, match="is succeeded, so it cannot be cancelled"):
        jobs.cancel(done.id)
    for one in (job, queued):
        found = jobs.retrieve(one.id)
        assert (found.status, found.fine_tuned_model, found.error) == ("cancelled", None, None)
        assert jobs.list_events(one.id, limit=1).data[0].level == "warn"


def test_a_failed_job_says_why(sdk: OpenAI, training_file: str) -> None:
    """In its error and in its last event; it does not have a model."""
    job = ended(sdk, created(sdk, training_file, method=hyperparameters(n_epochs=50, learning_rate_multiplier=1e12)).id)
    assert job.status == "failed"
    assert job.error is not None
    assert "diverged" in job.error.message
    assert job.fine_tuned_model is None
    assert sdk.fine_tuning.jobs.list_events(job.id, limit=1).data[0].level == "error"


def test_a_paused_job_waits_until_it_is_resumed(sdk: OpenAI, lenient: OpenAI, training_file: str) -> None:
    """Other jobs are tuned meanwhile; a job in another state is refused with a 400."""
    job = created(sdk, training_file, method=hyperparameters(n_epochs=LONG))
    underway(sdk, job.id)
    with pytest.raises(BadRequestError, match="cannot be resumed"):
        sdk.fine_tuning.jobs.resume(job.id)
    for _ in range(2):
        assert str(lenient.fine_tuning.jobs.pause(job.id).status) == "paused"
    done = ended(sdk, created(sdk, training_file).id)
    assert done.status == "succeeded"
    with pytest.raises(BadRequestError, match="cannot be paused"):
        sdk.fine_tuning.jobs.pause(done.id)
    assert sdk.fine_tuning.jobs.resume(job.id).status in ("queued", "running")
    assert sdk.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_a_job_may_continue_a_tuned_model(sdk: OpenAI, training_file: str) -> None:
    """It cannot continue a checkpoint."""
    first = ended(sdk, created(sdk, training_file, suffix="first").id)
    assert first.fine_tuned_model is not None
    second = created(sdk, training_file, model=first.fine_tuned_model, suffix="second")
    assert second.model == first.fine_tuned_model
    assert (ended(sdk, second.id).fine_tuned_model or "").startswith("ft:tiny:tunerun:second:")
    with pytest.raises(BadRequestError, match="checkpoint"):
        created(sdk, training_file, model=f"{first.fine_tuned_model}:ckpt-step-3")


def test_a_model_is_deleted_together_with_its_job(sdk: OpenAI, running: RunningService, training_file: str) -> None:
    """Also while it trains; base models, checkpoints and models of others cannot be deleted."""
    job = created(sdk, training_file, method=hyperparameters(n_epochs=LONG))
    underway(sdk, job.id)
    identifier = running.service.library.newest(running.key, 1)[0].id
    assert sdk.models.delete(f"tunedModels/{identifier}").deleted
    with pytest.raises(NotFoundError):
        sdk.fine_tuning.jobs.retrieve(job.id)
    done = ended(sdk, created(sdk, training_file).id)
    name = done.fine_tuned_model or ""
    assert sdk.models.retrieve(name).owned_by == "tunerun"
    assert {"tiny", name} == {model.id for model in sdk.models.list()}
    key = running.service.keys.add("other@localhost", running.key.scopes)
    with client_of(running, key.secret) as other:
        assert [model.id for model in other.models.list()] == ["tiny"]
        for ask in (other.models.retrieve, other.models.delete):
            with pytest.raises(NotFoundError):
                ask(name)
        for look in (
            other.fine_tuning.jobs.retrieve,
            other.fine_tuning.jobs.cancel,
            other.fine_tuning.jobs.list_events,
        ):
            with pytest.raises(NotFoundError):
                look(done.id)
    running.service.keys.revoke(key.id)
    for refused in ("tiny", f"{name}:ckpt-step-3"):
        with pytest.raises(BadRequestError):
            sdk.models.delete(refused)
    assert sdk.models.delete(name).id == name
    for missing in (name, "org/name", "gpt-4o"):
        with pytest.raises(NotFoundError) as gone:
            sdk.models.retrieve(missing)
        assert gone.value.code == "model_not_found"


def test_a_name_with_a_slash_is_found_encoded(sdk: OpenAI, running: RunningService) -> None:
    """The SDK sends tunedModels%2Fid; models of the Gemini wire are listed and found here."""
    with Client(running.address, sdk.api_key) as gemini:
        gemini.tuned("from-gemini")
    assert sdk.models.retrieve("tunedModels/from-gemini").id == "tunedModels/from-gemini"
    (name,) = [model.id for model in sdk.models.list() if model.id != "tiny"]
    assert name.startswith("ft:tiny:tunerun::")
    assert sdk.models.retrieve(name).id == name


def test_an_unknown_job_is_not_found(sdk: OpenAI) -> None:
    """Every operation refuses it with a 404 in OpenAI's envelope."""
    jobs = sdk.fine_tuning.jobs
    for identifier in ("ftjob-none", "ftjob-" + "0" * 24):
        for ask in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list):
            with pytest.raises(APIStatusError) as refused:
                ask(identifier)
            assert (refused.value.status_code, refused.value.code) == (404, "fine_tune_not_found")
