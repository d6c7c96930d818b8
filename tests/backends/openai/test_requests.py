"""The requests that create a job, and the uploads before them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.backends.openai.place import JOBS, KEY, MODEL, OpenAIPlace, ended
from tests.rigs.http_service import Fault
from tests.rigs.openai_service import OpenAIService, Script, once
from tunerun.backends.openai import OpenAIBackend, OpenAISection
from tunerun.errors import InputError, UnavailableError
from tunerun.examples import Example, Turn
from tunerun.generation import GenerateOptions
from tunerun.job import (
    TuningHyperparameters,
)


def test_a_create_request_has_the_fields_of_the_api(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """Files by id, the method with its hyperparameters, the seed, and the suffix and metadata that identify the job."""
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


def test_training_rows_are_conversations(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """System message and earlier turns precede the last one; an answer that is not learned has weight 0."""
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


def test_equal_content_is_uploaded_once(place: OpenAIPlace, backend: OpenAIBackend) -> None:
    """Jobs with the same examples share a file, also across processes; a deleted file is uploaded again."""
    for digit in "12":
        backend.submit(place.request(digit))
    with place.open() as later:
        later.submit(place.request("3"))
    assert len(place.service.uploads) == 2
    place.service.delete_files()
    backend.submit(place.request("4"))
    assert len(place.service.uploads) == 4


@pytest.mark.parametrize("applied", [True, False])
def test_an_upload_whose_response_is_lost_is_looked_up(applied: bool) -> None:
    """Whether it took effect or not, the file exists once after the job is submitted again."""
    with OpenAIService(once(Fault(0, applied=applied), "POST", "/v1/files")) as service:
        place = OpenAIPlace(service)
        with place.open() as backend:
            if not applied:
                with pytest.raises(UnavailableError):
                    backend.submit(place.request("1"))
            backend.submit(place.request("1"))
        assert len(service.uploads) == len(set(service.uploads)) == 2
        assert len(service.created) == 1


def test_a_file_that_is_not_processed_yet_delays_the_job() -> None:
    """It is polled a few times; then `submit` fails as unavailable, and the next call does not upload the file again."""
    with OpenAIService(Script(processed_after=6)) as service, OpenAIPlace(service).open() as backend:
        with pytest.raises(UnavailableError, match="still pending"):
            backend.submit(OpenAIPlace(service).request("1"))
        assert service.created == []
        service.script.processed_after = 0
        backend.submit(OpenAIPlace(service).request("1"))
        assert len(service.uploads) == 2


@pytest.mark.parametrize("unknown", ["method", "metadata", "seed"])
def test_a_field_that_a_service_does_not_know_is_omitted(unknown: str) -> None:
    """An older service gets the older field for hyperparameters; the second job is created with one request."""
    with OpenAIService(Script(unknown=frozenset({unknown}))) as service, OpenAIPlace(service).open() as backend:
        for digit in "12":
            backend.submit(OpenAIPlace(service).request(digit))
        for body in service.bodies.values():
            assert unknown not in body
            hyperparameters = body.get("hyperparameters") or body["method"]["supervised"]["hyperparameters"]
            assert hyperparameters["n_epochs"] == 2
        assert len([each for each in service.requests if (each.method, each.path) == ("POST", JOBS)]) == 3


def test_an_absolute_learning_rate_is_sent_only_where_it_is_accepted() -> None:
    """Nebius reads its multiplier as the learning rate itself; other services refuse an absolute one."""
    nebius = OpenAISection(kind="openai", base_url="https://api.tokenfactory.nebius.com/v1")
    assert nebius.host.rate_is_absolute
    with OpenAIService() as service, OpenAIPlace(service).open() as backend:
        request = replace(OpenAIPlace(service).request("1"), hyperparameters=TuningHyperparameters(learning_rate=0.01))
        with pytest.raises(InputError, match=r"hyperparameters\.learning_rate_multiplier"):
            backend.submit(request)
        with pytest.raises(InputError, match="seed: 4000000000 is above 2147483647"):
            backend.submit(replace(OpenAIPlace(service).request("1"), seed=4_000_000_000))


def test_organization_project_and_key_are_headers(place: OpenAIPlace) -> None:
    """All requests have them."""
    with place.open(organization="org-1", project="proj-1") as backend:
        backend.prepare([MODEL])
    headers = place.service.requests[-1].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj-1")


def test_azure_has_its_own_paths_and_header(place: OpenAIPlace) -> None:
    """With api_version, paths begin with /openai, a model is called as a deployment, and the key is in api-key."""
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
