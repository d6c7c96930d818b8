"""The backend `gemini`, against a scripted service over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import stamina

from tests.engine.tiny_model import HELD_OUT, request_of
from tests.rigs.gemini_service import Fault, GeminiService, Request, Script
from tunerun.backends.gemini import GeminiBackend, GeminiSection
from tunerun.errors import AccessError, AmbiguousError, BackendError, InputError, UnavailableError
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, FailureKind, JobRef, JobState, TuningHyperparameters, TuningRequest
from tunerun.testing.backend_contract import BackendContract

MODEL = BaseModelRef(name="smollm2-135m", source="models/smollm2-135m")
KEY = "planted-key-0123456789"


class GeminiPlace:
    """A scripted service."""

    missing_model = BaseModelRef(name="missing-model", source="models/missing-model")

    def __init__(self, service: GeminiService) -> None:
        self.service = service

    def open(self, read_timeout_s: float = 10.0) -> GeminiBackend:
        return GeminiBackend(GeminiSection(kind="gemini", base_url=self.service.address, read_timeout_s=read_timeout_s))

    def request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, validation=HELD_OUT)

    def long_request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, epoch_count=1_000_000)


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMINI_API_KEY", KEY)
        yield


class TestContract(BackendContract):
    """The backend keeps the contract, with a service that takes a few steps at a time."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[GeminiPlace]:
        with GeminiService(Script(steps_per_look=3, key=KEY)) as service:
            yield GeminiPlace(service)


@pytest.fixture
def place() -> Iterator[GeminiPlace]:
    with GeminiService() as service:
        yield GeminiPlace(service)


@pytest.fixture
def backend(place: GeminiPlace) -> Iterator[GeminiBackend]:
    with place.open() as backend:
        yield backend


def once(fault: Fault, method: str, path: str) -> Script:
    """A script that answers the first request of a kind with a fault."""
    seen: list[int] = []

    def answer(request: Request) -> Fault | None:
        if request.method == method and request.path.startswith(path) and not seen:
            seen.append(request.number)
            return fault
        return None

    return Script(fault=answer)


def test_a_service_that_refuses_held_out_examples_tunes_without_them() -> None:
    """`validationData`, which Google's API lacks, is sent with held-out examples, and omitted after it was refused."""
    unknown = Fault(400, "Invalid JSON payload received. Unknown name \"validationData\" at 'tuned_model.tuning_task'")

    def fault(request: Request) -> Fault | None:
        return unknown if "validationData" in request.body.get("tuningTask", {}) else None

    with GeminiService(Script(fault=fault)) as service, GeminiPlace(service).open() as backend:
        request = GeminiPlace(service).request("4")
        backend.submit(request)
        assert service.created == [request.tuned_model_id]
        assert "validationData" not in service.bodies[request.tuned_model_id]["tuningTask"]


def test_a_create_request_has_the_fields_of_the_api(place: GeminiPlace, backend: GeminiBackend) -> None:
    """Base model, examples nested twice, one of the two learning rates, the key in the description."""
    request = replace(place.request("1"), hyperparameters=TuningHyperparameters(epoch_count=3, learning_rate=0.01))
    backend.submit(request)
    body = place.service.bodies[request.tuned_model_id]
    assert body["baseModel"] == "models/smollm2-135m"
    assert body["description"] == f"tunerun.key={request.key}"
    assert body["tuningTask"]["hyperparameters"] == {"epochCount": 3, "batchSize": 4, "learningRate": 0.01}
    first = request.training[0]
    assert body["tuningTask"]["trainingData"]["examples"]["examples"][0] == {
        "textInput": first.text_input,
        "output": first.output,
    }
    multiplied = TuningHyperparameters(learning_rate=None, learning_rate_multiplier=2.0)
    other = replace(place.request("2"), hyperparameters=multiplied)
    backend.submit(other)
    sent = place.service.bodies[other.tuned_model_id]["tuningTask"]["hyperparameters"]
    assert sent == {"epochCount": 5, "batchSize": 4, "learningRateMultiplier": 2.0}


@pytest.mark.parametrize("applied", [True, False])
def test_a_create_whose_response_is_lost_is_ambiguous(applied: bool) -> None:
    """Whether it took effect or not, there is one job after the next `submit`."""
    with GeminiService(once(Fault(0, applied=applied), "POST", "/v1beta/tunedModels")) as service:
        place = GeminiPlace(service)
        with place.open() as backend:
            with pytest.raises(AmbiguousError, match="it is unknown whether it took effect"):
                backend.submit(place.request("1"))
            ref = backend.submit(place.request("1"))
            assert backend.poll([ref])[ref].state is JobState.SUCCEEDED
        assert service.created == [place.request("1").tuned_model_id]


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_error_on_create_is_not_repeated_blindly(status: int) -> None:
    """One POST; the caller looks the job up before the next."""
    with GeminiService(once(Fault(status), "POST", "/v1beta/tunedModels")) as service:
        place = GeminiPlace(service)
        with place.open() as backend, pytest.raises((AmbiguousError, UnavailableError), match=f"answered {status}"):
            backend.submit(place.request("1"))
        assert [request.method for request in service.requests].count("POST") == 1


def test_an_id_of_another_trial_is_refused(place: GeminiPlace, backend: GeminiBackend) -> None:
    """A tuned model of that id with another key is never overwritten."""
    backend.submit(place.request("1"))
    other = replace(place.request("2"), tuned_model_id=place.request("1").tuned_model_id)
    with pytest.raises(InputError, match="was not created for this trial; delete it there, or choose another name"):
        backend.submit(other)
    assert len(place.service.created) == 1


def test_a_failed_job_is_created_again(place: GeminiPlace, backend: GeminiBackend) -> None:
    """Its tuned model is deleted first; the reason of the failure is that of the operation."""
    place.service.script = Script(failure=lambda _: "the loss diverged at step 3")
    ref = backend.submit(place.request("1"))
    failure = backend.poll([ref])[ref].failure
    assert failure is not None
    assert (failure.kind, failure.message) == (FailureKind.DIVERGED, "the loss diverged at step 3")
    place.service.script = Script()
    again = backend.submit(place.request("1"))
    assert backend.poll([again])[again].state is JobState.SUCCEEDED
    assert len(place.service.created) == 2


def test_an_answer_of_another_service_is_not_a_tuned_model(place: GeminiPlace, backend: GeminiBackend) -> None:
    """The job is neither lost nor that of another trial: the call may be repeated."""
    ref = backend.submit(place.request("1"))
    place.service.script = Script(fault=lambda _: Fault(200))
    with pytest.raises(UnavailableError, match="the answer is not a tuned model of the Gemini API"):
        backend.submit(place.request("1"))
    with pytest.raises(UnavailableError, match="the answer is not a tuned model of the Gemini API"):
        backend.poll([ref])


@pytest.mark.parametrize("task", [3, {"snapshots": 3}, {"snapshots": [{"step": "x"}]}, {"startTime": "yesterday"}])
def test_a_malformed_tuned_model_is_a_backend_error(backend: GeminiBackend, task: object) -> None:
    """Whatever the service answers, only a BackendError is raised."""
    with pytest.raises(UnavailableError, match=r"tunedModels/x at http.*: the answer is not a tuned model"):
        backend._status({"name": "tunedModels/x", "state": "ACTIVE", "tuningTask": task})


@pytest.mark.parametrize("status", [0, 500])
def test_a_deletion_whose_response_is_lost_is_done(status: int) -> None:
    """The repeated one is answered by 404."""
    script = once(Fault(status, applied=True), "DELETE", "/v1beta/tunedModels")
    script.failure = lambda _: "bug"
    with GeminiService(script) as service, stamina.set_testing(True, attempts=4):
        place = GeminiPlace(service)
        with place.open() as backend:
            ref = backend.submit(place.request("1"))
            assert backend.poll([ref])[ref].state is JobState.FAILED
            backend.submit(place.request("1"))
        assert [request.method for request in service.requests].count("DELETE") == 2
        assert len(service.created) == 2


@pytest.mark.thorough
@pytest.mark.parametrize(("jobs", "requests"), [(1, 1), (2, 2), (3, 1), (1_000, 1), (2_500, 3)])
def test_many_jobs_are_one_request_a_page(place: GeminiPlace, backend: GeminiBackend, jobs: int, requests: int) -> None:
    """A thousand jobs are polled with one list request, a few one by one."""
    request = place.request("1")
    refs = []
    for number in range(jobs):
        identifier = f"x-{number}"
        body = {"description": "", "tuningTask": {"hyperparameters": {"epochCount": 1, "batchSize": 4}}}
        body["tuningTask"]["trainingData"] = {"examples": {"examples": [{}] * len(request.training)}}  # type: ignore[index]
        place.service.answer(Request(0, "POST", "/v1beta/tunedModels", {"tunedModelId": identifier}, body, ""))
        refs.append(JobRef("gemini", identifier))
    statuses = backend.poll(refs)
    assert len(place.service.requests) == requests
    assert {status.state for status in statuses.values()} == {JobState.SUCCEEDED}
    assert len(statuses) == jobs


def test_base_models_that_cannot_be_tuned_are_reported_with_those_that_can(backend: GeminiBackend) -> None:
    """Unknown and untunable models at once."""
    models = [BaseModelRef(name=name, source=name) for name in ("embedding-001", "no-such", "smollm2-135m")]
    with pytest.raises(InputError, match="smollm2-135m") as caught:
        backend.prepare(models)
    first, second = caught.value.problems
    assert "embedding-001" in first
    assert first.endswith("the service cannot tune this model; base models that it can tune: smollm2-135m")
    assert "no-such" in second


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_an_access_error_without_the_key(status: int, place: GeminiPlace) -> None:
    """The service quotes the key in its message; the error does not."""
    place.service.script = Script(fault=lambda request: Fault(status, f"bad key {request.key}"))
    with place.open() as backend, pytest.raises(AccessError, match=r"bad key \*\*\*; check the API key") as caught:
        backend.prepare([MODEL])
    assert KEY not in repr(caught.value) + str(caught.value.__cause__)


def test_a_missing_key_is_an_access_error_that_names_the_variable(
    place: GeminiPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent."""
    monkeypatch.delenv("GEMINI_API_KEY")
    with place.open() as backend, pytest.raises(AccessError, match="GEMINI_API_KEY is not set"):
        backend.prepare([MODEL])
    assert place.service.requests == []


@pytest.mark.slow
def test_a_service_that_does_not_listen_is_unavailable() -> None:
    """The call had no effect, so it may be repeated."""
    with GeminiService() as service:
        place = GeminiPlace(service)
    with place.open() as backend, pytest.raises(UnavailableError):
        backend.submit(place.request("1"))


def test_a_blocked_answer_is_empty(place: GeminiPlace, backend: GeminiBackend) -> None:
    """A prompt that the service blocks counts as a wrong answer, not as an error."""
    place.service.script = Script(fault=lambda request: Fault(200) if "generateContent" in request.path else None)
    assert backend.generate(MODEL, ["1"], GenerateOptions()) == [""]


def test_an_error_of_generation_names_the_model(place: GeminiPlace, backend: GeminiBackend) -> None:
    """The error has the service's message."""
    place.service.script = Script(fault=lambda _: Fault(400, "too long"))
    with pytest.raises(BackendError, match=r"models/smollm2-135m at http.*answered 400 INVALID_ARGUMENT: too long"):
        backend.generate(MODEL, ["1"], GenerateOptions())


def test_google_is_reported_as_without_tunable_models() -> None:
    """The capabilities of its address have a warning with a date; those of another address do not."""
    (warning,) = GeminiBackend(GeminiSection(kind="gemini")).capabilities().warnings
    assert "has not offered a tunable model since May 2025" in warning
    assert "read 2026-04-29" in warning
    assert GeminiBackend(GeminiSection(kind="gemini", base_url="http://127.0.0.1:1")).capabilities().warnings == ()
