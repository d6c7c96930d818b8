"""States that are unknown, jobs that failed, and requests that are refused."""

from __future__ import annotations

import logging

import httpx
import pytest

from tests.backends.openai.place import KEY, MODEL, OpenAIPlace, ended
from tests.rigs.http_service import Fault
from tests.rigs.openai_service import OpenAIService, Script
from tunerun.backends.http import ApiKey, JsonService
from tunerun.backends.openai import OpenAIBackend
from tunerun.backends.openai.refusals import refusal
from tunerun.backends.openai.statuses import JobStatuses
from tunerun.errors import AccessError, InputError
from tunerun.job import (
    BaseModelRef,
    Failure,
    FailureKind,
    JobState,
)


def test_an_unknown_state_counts_as_running(caplog: pytest.LogCaptureFixture) -> None:
    """One warning names it, however often it is polled."""
    script = Script(steps_per_look=1, status=lambda _: "resharding")
    caplog.set_level(logging.WARNING, "tunerun")
    with OpenAIService(script) as service, OpenAIPlace(service).open() as backend:
        ref = backend.submit(OpenAIPlace(service).request("1"))
        assert [backend.poll([ref])[ref].state for _ in range(2)] == [JobState.RUNNING] * 2
    assert [record.getMessage().count("'resharding'") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("code", "message", "kind", "words"),
    [
        (
            "exceeded_quota",
            "You exceeded your quota",
            FailureKind.INVALID,
            "the account's owner has to raise the quota",
        ),
        ("invalid_training_file", "line 3", FailureKind.INVALID, "invalid_training_file: line 3"),
        ("server_error", "CUDA out of memory", FailureKind.OUT_OF_MEMORY, "out of memory"),
        ("invalid_hyperparameters", "diverged: the loss is nan at step 3", FailureKind.DIVERGED, "the loss is nan"),
        ("gpu_memory_exceeded", "the job was stopped", FailureKind.OUT_OF_MEMORY, "gpu_memory_exceeded: the job"),
        ("invalid_n_examples", "the loss is nan", FailureKind.DIVERGED, "the loss is nan; add examples"),
        (None, None, FailureKind.CRASHED, "gave no reason"),
    ],
)
def test_a_failed_job_has_a_kind_and_the_services_message(
    code: str | None, message: str | None, kind: FailureKind, words: str
) -> None:
    """With who has to act; a failed job is created again."""
    error = {"code": code, "message": message, "param": None}
    with OpenAIService(Script(failure=lambda _: error)) as service, OpenAIPlace(service).open() as backend:
        request = OpenAIPlace(service).request("1")
        failure = ended(backend, request).failure
        assert failure is not None
        assert failure.kind is kind
        assert words in failure.message
        service.script.failure = lambda _: None
        assert ended(backend, request).state is JobState.SUCCEEDED


def test_a_failed_job_without_a_curve_has_its_reason_whatever_its_times_are() -> None:
    """A time that is not a number makes only a curve unreadable."""
    events = httpx.MockTransport(lambda _request: httpx.Response(200, json={"data": []}))
    service = JsonService(
        "https://tuning.example.org", ApiKey("OPENAI_API_KEY", "Authorization"), 1, 1, refusal, transport=events
    )
    job = {"id": "job-1", "status": "failed", "finished_at": "2026-11-26T10:00:00Z", "error": {"message": "no disk"}}
    assert JobStatuses(service, "").of(job).failure == Failure(FailureKind.CRASHED, "no disk")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(401, f"Incorrect API key provided: {KEY}", code="invalid_api_key"), "backend.api_key_env"),
        (Fault(403, "no access to fine-tuning"), r"ask its owner for access.*backend\.project"),
        (Fault(429, "You exceeded your quota", code="insufficient_quota"), "the account's owner has to raise it"),
    ],
)
def test_an_access_error_says_who_has_to_act(fault: Fault, words: str) -> None:
    """Key, permission and quota have different messages; none contains the key, each has the request's id."""
    with (
        OpenAIService(Script(fault=lambda _: fault)) as service,
        OpenAIPlace(service).open() as backend,
        pytest.raises(AccessError, match=words) as caught,
    ):
        backend.submit(OpenAIPlace(service).request("1"))
    assert KEY not in str(caught.value)
    assert "(request req_1)" in str(caught.value)


def test_missing_base_models_are_reported_with_the_available_ones(backend: OpenAIBackend) -> None:
    """One problem for each."""
    missing = [BaseModelRef(name=name, source=name) for name in ("org/one", "two")]
    with pytest.raises(InputError, match=r"org/one at http.*does not exist.*smollm2-135m") as caught:
        backend.prepare([*missing, MODEL])
    assert len(caught.value.problems) == 2


def test_a_service_without_a_list_of_models_is_accepted() -> None:
    """`prepare` succeeds at a gateway without /models."""
    absent = Fault(404, "not found")
    script = Script(fault=lambda request: absent if "/models" in request.path else None)
    with OpenAIService(script) as service, OpenAIPlace(service).open() as backend:
        backend.prepare([MODEL])
        assert any("/models" in request.path for request in service.requests)
