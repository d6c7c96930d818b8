"""The backend `openai`, against a scripted service over real HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import stamina

from tests.engine.tiny_model import EXAMPLES, HELD_OUT, request_of
from tests.experiments import planned
from tests.rigs.http_service import Fault, Json, Request
from tests.rigs.openai_service import OpenAIService, Script, as_base64, once
from tunerun.backends.openai import OpenAIBackend, OpenAISection
from tunerun.errors import AccessError, AmbiguousError, BackendError, InputError, LimitError, UnavailableError
from tunerun.examples import Conversation, Example, Turn
from tunerun.generation import GenerateOptions
from tunerun.job import (
    BaseModelRef,
    Checkpoint,
    EpochLoss,
    FailureKind,
    JobState,
    JobStatus,
    TuningHyperparameters,
    TuningRequest,
)
from tunerun.testing.backend_contract import BackendContract

MODEL = BaseModelRef(name="smollm2-135m", source="smollm2-135m")
KEY = "planted-key-0123456789"
JOBS = "/v1/fine_tuning/jobs"


class OpenAIPlace:
    """A scripted service."""

    missing_model = BaseModelRef(name="missing-model", source="missing-model")

    def __init__(self, service: OpenAIService) -> None:
        self.service = service

    def open(self, **section: Any) -> OpenAIBackend:
        return OpenAIBackend(OpenAISection(kind="openai", **{"base_url": self.service.base_url, **section}))

    def request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, validation=HELD_OUT, **MULTIPLIED)

    def long_request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, epoch_count=1_000_000, **MULTIPLIED)


MULTIPLIED: dict[str, Any] = {"learning_rate": None, "learning_rate_multiplier": 10.0}


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        yield


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """As many attempts as ever, without the waits between them."""
    with stamina.set_testing(True, attempts=4):
        yield


class TestContract(BackendContract):
    """The backend keeps the contract, with a service that takes a few steps at a time."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[OpenAIPlace]:
        with OpenAIService(Script(steps_per_look=3, key=KEY)) as service:
            yield OpenAIPlace(service)


@pytest.fixture
def place() -> Iterator[OpenAIPlace]:
    with OpenAIService() as service:
        yield OpenAIPlace(service)


@pytest.fixture
def backend(place: OpenAIPlace) -> Iterator[OpenAIBackend]:
    with place.open() as backend:
        yield backend


def ended(backend: OpenAIBackend, request: TuningRequest) -> JobStatus:
    ref = backend.submit(request)
    for _ in range(100):
        status = backend.poll([ref])[ref]
        if status.state.is_finished:
            return status
    raise AssertionError("the job does not end")


# What is asked for


def test_a_job_is_asked_for_in_the_words_of_the_api(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """Files by id, the method with its hyperparameters, the seed, and two marks by which the job is found again."""
    request = replace(place.request("1"), seed=7)
    backend.submit(request)
    (body,) = place.service.bodies.values()
    assert body == {
        "model": "smollm2-135m",
        "training_file": "file-1",
        "validation_file": "file-2",
        "suffix": "tiny-1-111111111111",
        "seed": 7,
        "metadata": {
            "tunerun_key": request.key,
            "tunerun_model": "tiny-1",
            "tunerun_steps": "6",
            "tunerun_epochs": "2",
        },
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 3, "learning_rate_multiplier": 10.0}},
        },
    }


def test_examples_are_conversations(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """System message and earlier turns come before the last one; an answer that is not learned has weight 0."""
    earlier = (Turn("hello", "hi", is_learned=False), Turn("1?", "2"))
    example = Example("3?", "4", system="Count on.", earlier=earlier)
    backend.submit(replace(place.request("1"), training=(example, Example("é", "ü"))))
    assert place.service.rows("file-1") == [
        {
            "messages": [
                {"role": "system", "content": "Count on."},
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "hi", "weight": 0},
                {"role": "user", "content": "1?"},
                {"role": "assistant", "content": "2"},
                {"role": "user", "content": "3?"},
                {"role": "assistant", "content": "4"},
            ]
        },
        {"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "ü"}]},
    ]


def test_a_content_is_uploaded_once(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """Jobs of one data set share its file, also those of a later process; a file that was deleted is sent again."""
    for digit in "12":
        backend.submit(place.request(digit))
    with place.open() as later:
        later.submit(place.request("3"))
    assert len(place.service.uploads) == 2
    place.service.delete_files()
    backend.submit(place.request("4"))
    assert len(place.service.uploads) == 4


@pytest.mark.parametrize("applied", [True, False])
def test_an_upload_whose_answer_is_lost_is_looked_for(applied: bool) -> None:
    """Whether it took effect or not, the file is there once when the job is submitted again."""
    with OpenAIService(once(Fault(0, applied=applied), "POST", "/v1/files")) as service:
        place = OpenAIPlace(service)
        with place.open() as backend:
            if not applied:
                with pytest.raises(UnavailableError):
                    backend.submit(place.request("1"))
            backend.submit(place.request("1"))
        assert len(service.uploads) == len(set(service.uploads)) == 2
        assert len(service.created) == 1


def test_a_file_that_is_still_being_processed_is_waited_for() -> None:
    """A few looks are taken at once; after that the trial waits, and the file is not sent again."""
    with OpenAIService(Script(processed_after=6)) as service, OpenAIPlace(service).open() as backend:
        with pytest.raises(UnavailableError, match="still pending"):
            backend.submit(OpenAIPlace(service).request("1"))
        assert service.created == []
        service.script.processed_after = 0
        backend.submit(OpenAIPlace(service).request("1"))
        assert len(service.uploads) == 2


@pytest.mark.parametrize("unknown", ["method", "metadata", "seed"])
def test_a_field_that_a_service_does_not_know_is_left_out(unknown: str) -> None:
    """An older service gets the hyperparameters by their older field, and is not asked twice a second time."""
    with OpenAIService(Script(unknown=frozenset({unknown}))) as service, OpenAIPlace(service).open() as backend:
        for digit in "12":
            backend.submit(OpenAIPlace(service).request(digit))
        for body in service.bodies.values():
            assert unknown not in body
            hyperparameters = body.get("hyperparameters") or body["method"]["supervised"]["hyperparameters"]
            assert hyperparameters["n_epochs"] == 2
        assert len([each for each in service.requests if (each.method, each.path) == ("POST", JOBS)]) == 3


def test_an_absolute_learning_rate_goes_where_it_is_taken() -> None:
    """Nebius reads its multiplier as the learning rate itself; elsewhere an absolute one is refused."""
    nebius = OpenAISection(kind="openai", base_url="https://api.tokenfactory.nebius.com/v1")
    assert nebius.host.rate_is_absolute
    with OpenAIService() as service, OpenAIPlace(service).open() as backend:
        request = replace(OpenAIPlace(service).request("1"), hyperparameters=TuningHyperparameters(learning_rate=0.01))
        with pytest.raises(InputError, match=r"hyperparameters\.learning_rate_multiplier"):
            backend.submit(request)
        with pytest.raises(InputError, match="seed: 4000000000 is above 2147483647"):
            backend.submit(replace(OpenAIPlace(service).request("1"), seed=4_000_000_000))


def test_organization_project_and_key_are_headers(place: OpenAIPlace) -> None:
    """They are sent with every request."""
    with place.open(organization="org-1", project="proj-1") as backend:
        backend.prepare([MODEL])
    headers = place.service.requests[-1].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj-1")


def test_azure_has_paths_and_a_header_of_its_own(place: OpenAIPlace) -> None:
    """With api_version the paths begin with /openai, a model answers as a deployment, and the key is in api-key."""
    with place.open(base_url=place.service.address, api_version="2024-10-21") as backend:
        status = ended(backend, place.request("1"))
        assert status.tuned_model is not None
        assert backend.generate(status.tuned_model, ["1"], GenerateOptions()) == ["1"]
    assert {each.parameters["api-version"] for each in place.service.requests} == {"2024-10-21"}
    assert {each.headers["api-key"] for each in place.service.requests} == {KEY}
    paths = [each.path for each in place.service.requests]
    assert all(path.startswith("/openai/") for path in paths)
    assert paths[-1] == "/openai/deployments/ft%3Asmollm2-135m%3Aorg%3Atiny-1-111111111111%3Aftjob-1/chat/completions"
    assert place.service.uploads[0].startswith(b"\xef\xbb\xbf{")


# Finding jobs again


@pytest.mark.thorough
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_a_lost_answer_is_looked_up(applied: bool, keeps_metadata: bool) -> None:
    """Whether the create took effect or not, submitting ends with one job, also where only the suffix marks it."""
    script = once(Fault(0, applied=applied), "POST", JOBS, keeps_metadata=keeps_metadata)
    with OpenAIService(script) as service:
        place = OpenAIPlace(service)
        with place.open() as backend:
            if not applied:
                with pytest.raises(AmbiguousError, match="it is unknown whether it took effect"):
                    backend.submit(place.request("1"))
            ref = backend.submit(place.request("1"))
            assert backend.poll([ref])[ref].state is JobState.SUCCEEDED
        with place.open() as later:
            assert later.find(place.request("1").key, "tiny-1") == ref
            assert later.find("2" * 64, "tiny-1") is None
        assert service.created == ["tiny-1"]


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_error_on_create_is_not_repeated_blindly(status: int) -> None:
    """One POST; the service is asked whether there is a job before the next."""
    with OpenAIService(once(Fault(status), "POST", JOBS)) as service, OpenAIPlace(service).open() as backend:
        with pytest.raises((AmbiguousError, UnavailableError)):
            backend.submit(OpenAIPlace(service).request("1"))
        assert len([each for each in service.requests if (each.method, each.path) == ("POST", JOBS)]) == 1


@pytest.mark.parametrize("filters", [True, False])
def test_a_job_is_found_among_many(filters: bool) -> None:
    """Also where the service overlooks the filter by metadata, and by reading no more than it has to."""
    with OpenAIService(Script(filters=filters)) as service, OpenAIPlace(service).open() as backend:
        refs = {digit: backend.submit(OpenAIPlace(service).request(digit)) for digit in "1234567"}
        with OpenAIPlace(service).open() as later:
            assert {digit: later.find(digit * 64, f"tiny-{digit}") for digit in refs} == refs
            assert later.find("8" * 64, "tiny-8") is None


@pytest.mark.thorough
@pytest.mark.parametrize(("jobs", "requests"), [(2, 2), (40, 1), (250, 3)])
def test_many_jobs_are_one_request_a_page(jobs: int, requests: int) -> None:
    """Few are asked for by themselves, many are listed."""
    with OpenAIService(Script(steps_per_look=0)) as service, OpenAIPlace(service).open() as backend:
        first = OpenAIPlace(service).request("1")
        refs = [backend.submit(replace(first, key=f"{number:064}")) for number in range(jobs)]
        before = len(service.requests)
        statuses = backend.poll(refs)
        assert {status.state for status in statuses.values()} == {JobState.QUEUED}
        assert len(service.requests) - before == requests


# Curves


def test_a_curve_is_live_and_read_once(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """Each poll gives the steps that are new, with their epochs; only new events are read."""
    place.service.script.steps_per_look = 150
    long = replace(place.request("1"), hyperparameters=TuningHyperparameters(200, 3, None, 1.0))
    ref = backend.submit(long)
    steps: list[int] = []
    reads = []
    while True:
        before = len(place.service.requests)
        status = backend.poll([ref], {ref: len(steps)})[ref]
        steps += [snapshot.step for snapshot in status.snapshots]
        reads.append(len([each for each in place.service.requests[before:] if each.path.endswith("/events")]))
        if status.state.is_finished:
            break
    assert steps == list(range(1, 601))
    assert status.snapshots[-1].epoch == 200
    assert reads == [2, 2, 2, 2]  # 150 new events are on two pages, and the second one has a known event
    assert [one.epoch for one in status.validation] == list(range(1, 201))


def test_a_service_that_lists_the_oldest_first_is_read_on(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """The next read begins behind the newest event that is known."""
    place.service.script.is_newest_first = False
    place.service.script.steps_per_look = 2
    ref = backend.submit(place.request("1"))
    counts = [len(backend.poll([ref])[ref].snapshots) for _ in range(3)]
    assert counts == [2, 4, 6]
    asked = [each.parameters.get("after") for each in place.service.requests if each.path.endswith("/events")]
    assert asked == [None, "ftevent-ftjob-1-2", "ftevent-ftjob-1-4"]


def without_data(event: Json) -> Json:
    """As Azure's, whose events have their numbers in words alone, without the number of all steps."""
    step = event["data"]["step"]
    return {**event, "data": None, "message": f"Step {step}: training loss={1 / step:.5f}"}


@pytest.mark.parametrize("result", [lambda content: content, as_base64], ids=["plain", "base64"])
def test_a_curve_with_gaps_is_completed_by_the_result_file(result: Any) -> None:
    """A host that reports every second step in words gives its whole curve when the file is there, each step once."""
    script = Script(steps_per_look=3, every=2, event=without_data, result=result)
    with OpenAIService(script) as service, OpenAIPlace(service).open() as backend:
        request = OpenAIPlace(service).request("1")
        ref = backend.submit(request)
        assert backend.poll([ref])[ref].snapshots == ()
        whole = backend.poll([ref])[ref]
        assert whole.state is JobState.SUCCEEDED
        assert [(s.step, s.epoch) for s in whole.snapshots] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
        assert [s.mean_loss for s in whole.snapshots] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6], abs=1e-5)
        assert whole.validation == ()


def test_cells_without_a_number_are_left_out() -> None:
    """NaN, empty cells, other columns and lines that are cut are not steps of a curve."""
    rows = b'"step","train_loss","full_valid_loss"\n1,0.5,\n2,nan,\n3,0.25,0.75\n,,\n4'
    script = Script(event=lambda event: {**event, "data": {}, "message": ""}, result=lambda _: rows)
    with OpenAIService(script) as service, OpenAIPlace(service).open() as backend:
        status = ended(backend, replace(OpenAIPlace(service).request("1"), key="1" * 64))
        assert [(s.step, s.mean_loss) for s in status.snapshots] == [(1, 0.5), (3, 0.25)]


def test_checkpoints_are_epochs(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """Each can be called by its own name, the last one by the tuned model's."""
    request = replace(place.request("1"), hyperparameters=TuningHyperparameters(4, 3, None, 1.0))
    status = ended(backend, request)
    name = "ft:smollm2-135m:org:tiny-1-111111111111:ftjob-1"
    assert status.checkpoints == (
        Checkpoint(2, 6, f"{name}:ckpt-step-6"),
        Checkpoint(3, 9, f"{name}:ckpt-step-9"),
        Checkpoint(4, 12, name),
    )
    assert status.tuned_model is not None
    assert status.tuned_model.checkpoints == status.checkpoints
    assert status.validation == tuple(EpochLoss(epoch, 1 / epoch) for epoch in (1, 2, 3, 4))
    assert status.metrics == {"validation/loss": 0.25, "train/seconds": 11.0}


# States and failures


def test_an_unknown_state_counts_as_running(caplog: pytest.LogCaptureFixture) -> None:
    """A warning says the word once, however often it is seen."""
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
        (None, None, FailureKind.CRASHED, "gave no reason"),
    ],
)
def test_a_failed_job_says_why(code: str | None, message: str | None, kind: FailureKind, words: str) -> None:
    """The kind of the failure, the service's own words, and who has to act."""
    error = {"code": code, "message": message, "param": None}
    with OpenAIService(Script(failure=lambda _: error)) as service, OpenAIPlace(service).open() as backend:
        request = OpenAIPlace(service).request("1")
        failure = ended(backend, request).failure
        assert failure is not None
        assert failure.kind is kind
        assert words in failure.message
        service.script.failure = lambda _: None
        assert ended(backend, request).state is JobState.SUCCEEDED  # a failed job starts again


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(401, f"Incorrect API key provided: {KEY}", code="invalid_api_key"), "backend.api_key_env"),
        (Fault(403, "no access to fine-tuning"), r"ask its owner for access.*backend\.project"),
        (Fault(429, "You exceeded your quota", code="insufficient_quota"), "the account's owner has to raise it"),
    ],
)
def test_a_refusal_says_who_has_to_act(fault: Fault, words: str) -> None:
    """Key, permission and quota are different refusals; none shows the key, each has the request's id."""
    with (
        OpenAIService(Script(fault=lambda _: fault)) as service,
        OpenAIPlace(service).open() as backend,
        pytest.raises(AccessError, match=words) as caught,
    ):
        backend.submit(OpenAIPlace(service).request("1"))
    assert KEY not in str(caught.value)
    assert "(request req_1)" in str(caught.value)


def test_base_models_that_are_missing_are_named_with_those_that_are_there(backend: OpenAIBackend) -> None:
    """All at once."""
    missing = [BaseModelRef(name=name, source=name) for name in ("org/one", "two")]
    with pytest.raises(InputError, match=r"org/one at http.*does not exist.*smollm2-135m") as caught:
        backend.prepare([*missing, MODEL])
    assert len(caught.value.problems) == 2


def test_a_service_that_lists_no_models_is_believed() -> None:
    """A gateway without /models is asked for a job all the same."""
    absent = Fault(404, "not found")
    script = Script(fault=lambda request: absent if "/models" in request.path else None)
    with OpenAIService(script) as service, OpenAIPlace(service).open() as backend:
        backend.prepare([MODEL])
        assert any("/models" in request.path for request in service.requests)


# Answers


def test_a_conversation_is_answered_with_all_that_is_before_it(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """System message, examples and earlier turns, in this order; the options in the API's words."""
    asked = Conversation("3?", "Count on.", (Turn("1?", "2"),))
    options = GenerateOptions(
        9, 0.5, seed=2**31 + 5, top_p=0.9, stop_sequences=("\n",), json_schema='{"type": "object"}'
    )
    assert backend.generate(MODEL, [asked], options, [Example("a", "b")]) == ["3?"]
    body = place.service.requests[-1].body
    assert [(m["role"], m["content"]) for m in body.pop("messages")] == [
        ("system", "Count on."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "1?"),
        ("assistant", "2"),
        ("user", "3?"),
    ]
    form = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert body == {
        "model": "smollm2-135m",
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 5,
        "top_p": 0.9,
        "stop": ["\n"],
        "response_format": {"type": "json_schema", "json_schema": form},
    }


def test_a_model_that_is_not_served_yet_is_asked_again(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """A tuned model may give 404 for a while; a base model that gives 404 is not there."""
    tuned = ended(backend, place.request("1")).tuned_model
    assert tuned is not None
    place.service.script = once(Fault(404, "no such model"), "POST", "/v1/chat/completions")
    assert backend.generate(tuned, ["1"], GenerateOptions()) == ["1"]
    with pytest.raises(BackendError, match="missing-model"):
        backend.generate(place.missing_model, ["1"], GenerateOptions())
    assert len([each for each in place.service.requests if each.body.get("model") == "missing-model"]) == 1


def test_a_busy_service_is_asked_again(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """A rate limit and a server's error are not answers."""
    for status in (429, 503):
        fault = Fault(status, "busy", headers={"retry-after-ms": "1"})
        place.service.script = once(fault, "POST", "/v1/chat/completions")
        assert backend.generate(MODEL, ["1", "2"], GenerateOptions()) == ["1", "2"]


def test_a_model_that_knows_only_the_newer_limit_gets_it(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """The older field for the length of an answer is tried first, once."""
    words = "Unsupported parameter: 'max_tokens' is not supported; use 'max_completion_tokens' instead."

    def fault(request: Request) -> Fault | None:
        return Fault(400, words, param="max_tokens") if "max_tokens" in request.body else None

    place.service.script.fault = fault
    assert backend.generate(MODEL, ["1"], GenerateOptions(9)) == ["1"]
    assert backend.generate(MODEL, ["2"], GenerateOptions(9)) == ["2"]
    assert [each.body.get("max_completion_tokens") for each in place.service.requests] == [None, 9, 9]


@pytest.mark.parametrize(
    ("options", "words"),
    [(GenerateOptions(top_k=3), "top_k"), (GenerateOptions(stop_sequences=tuple("abcde")), "5 stop sequences")],
)
def test_options_that_the_api_has_no_word_for_are_refused(
    backend: OpenAIBackend, options: GenerateOptions, words: str
) -> None:
    """Nothing is sent then."""
    with pytest.raises(InputError, match=words):
        backend.generate(MODEL, ["1"], options)


def test_azure_says_that_a_model_has_to_be_deployed(place: OpenAIPlace) -> None:
    """In the warnings of a plan, and where a tuned model does not answer."""
    with place.open(base_url=place.service.address, api_version="2024-10-21") as backend:
        (warning,) = backend.capabilities().warnings
        assert "deploy each tuned model under its own name" in warning
        tuned = ended(backend, place.request("1")).tuned_model
        assert tuned is not None
        place.service.script.fault = lambda request: Fault(404, code="DeploymentNotFound") if request.body else None
        with pytest.raises(BackendError, match="deploy the model under its own name"):
            backend.generate(tuned, ["1"], GenerateOptions())


def test_limits_and_warnings_are_those_of_the_service() -> None:
    """OpenAI's own closes, and takes ten examples or more; of others nothing is known."""
    openai = OpenAIBackend(OpenAISection(kind="openai")).capabilities()
    assert "2027-01-06" in openai.warnings[0]
    assert (openai.min_examples, openai.takes_learning_rate) == (10, False)
    own = OpenAIBackend(OpenAISection(kind="openai", base_url="http://127.0.0.1:1/v1")).capabilities()
    assert (own.min_examples, own.warnings) == (1, ())
    assert len(EXAMPLES) < openai.min_examples


# Plans


OWN = ("backend=openai", "backend.base_url=http://127.0.0.1:1/v1")
MULTIPLIER = ("hyperparameters.learning_rate=null", "hyperparameters.learning_rate_multiplier=1")


def test_a_plan_refuses_an_absolute_learning_rate_with_the_multiplier_that_is_ours(tmp_path: Path) -> None:
    """Every value of a sweep, with the overrides to set; a multiplier is planned."""
    with pytest.raises(
        InputError, match=r"0\.002 is absolute.*ours would be 2, .*learning_rate_multiplier=2"
    ) as caught:
        planned(tmp_path, *OWN, "hyperparameters.learning_rate=0.002,0.0005")
    assert "learning_rate_multiplier=0.5" in str(caught.value)
    (trial,) = planned(tmp_path, *OWN, *MULTIPLIER).trials
    assert trial.config.hyperparameters.effective_learning_rate == 0.001


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hyperparameters.keep=best", "keep: best is not possible"),
        ("hyperparameters.adapter_rank=4,8", r"sweep\.axes\.hyperparameters\.adapter_rank: the backend openai"),
    ],
)
def test_a_plan_refuses_what_the_service_has_no_word_for(tmp_path: Path, override: str, words: str) -> None:
    """Before anything is sent."""
    with pytest.raises(InputError, match=words):
        planned(tmp_path, *OWN, *MULTIPLIER, override)


def test_a_plan_knows_the_limits_and_dates_of_the_service(tmp_path: Path) -> None:
    """Too few examples, a base model that is retired or soon will be, an unknown price, and Azure's deployments."""
    at_openai = ("backend=openai", *MULTIPLIER, "model=gpt-4o-mini-2024-07-18")
    with pytest.raises(LimitError, match="5 training examples; the backend openai takes at least 10"):
        planned(tmp_path, *at_openai, "dataset.limit=5", "model.retires_on=null")
    with pytest.raises(InputError, match="was retired on 2024-01-01"):
        planned(tmp_path, *at_openai, "model.retires_on=2024-01-01")
    soon = (date.today() + timedelta(days=30)).isoformat()
    plan = planned(tmp_path, *at_openai, f"model.retires_on={soon}")
    assert any(f"retires on {soon} (30 days from now)" in warning for warning in plan.warnings)
    assert any("2027-01-06" in warning for warning in plan.warnings)
    azure = ("backend.base_url=https://mine.openai.azure.com", "backend.api_version=2024-10-21")
    plan = planned(tmp_path, *at_openai, *azure, "model.retires_on=null")
    assert any("deploy each tuned model" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://example.org/v1", r"backend\.base_url: must be https"),
        ("https://user:planted@example.org/v1", r"backend\.base_url: must not contain a user"),
        ("example.org", r"backend\.base_url: must be an address"),
    ],
)
def test_an_address_that_could_show_the_key_is_refused(tmp_path: Path, address: str, words: str) -> None:
    """Plain http goes to this machine alone; the message does not repeat a password."""
    with pytest.raises(InputError, match=words) as caught:
        planned(tmp_path, "backend=openai", f"backend.base_url={address}", *MULTIPLIER)
    assert "planted" not in str(caught.value)
