"""All requests and responses have the fields of Google's own types, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.engine.tiny_model import request_of
from tests.rigs.gemini_service import GeminiService
from tests.rigs.running_service import RunningService
from tests.service.client import Client, body, continuing, prompt
from tunerun.backends.gemini import GeminiBackend, GeminiSection
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, TuningHyperparameters
from tunerun.service.core.model_calls import UNPREDICTABLE
from tunerun.testing.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


LONG = 1_000_000
STATES = ("active", "failed", "cancelled", "creating")


def parsed(document: dict[str, Any], type_: str) -> Any:
    """A document as the official type; fails on a field that the type has not."""
    from google.ai import generativelanguage_v1beta as official
    from google.longrunning import operations_pb2
    from google.protobuf import json_format

    own = {"Operation": operations_pb2.Operation, "ListOperationsResponse": operations_pb2.ListOperationsResponse}
    message = own[type_]() if type_ in own else getattr(official, type_).pb(getattr(official, type_)())
    return json_format.ParseDict(document, message)


@pytest.fixture(scope="module")
def models(running: RunningService) -> Iterator[Client]:
    """A service with tuned models in every state."""
    with Client(running.address, running.key.secret) as client:
        settings = {"displayName": "Shown", "description": "words", "temperature": 0.5, "topP": 0.9, "topK": 40}
        client.good("POST", "/tunedModels", body() | settings | {"readerProjectNumbers": ["1"]}, tunedModelId="active")
        client.good("POST", "/tunedModels", body(learningRate=1e9, epochCount=50), tunedModelId="failed")
        client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId="cancelled")
        wait_until(lambda: client.steps("cancelled") > 1, "two steps are taken")
        client.good("POST", "/tunedModels/cancelled:cancel", {})
        source = continuing("active", epochCount=LONG)
        client.good("POST", "/tunedModels", source, tunedModelId="creating")
        wait_until(lambda: client.steps("creating") > 1, "two steps are taken")
        yield client
        for identifier in STATES:
            client.good("DELETE", f"/tunedModels/{identifier}")


@pytest.mark.parametrize("identifier", STATES)
def test_tuned_models_and_operations_are_the_official_types(models: Client, identifier: str) -> None:
    """From get, in a list, and inside an operation, in every state."""
    tuned = parsed(models.good("GET", f"/tunedModels/{identifier}"), "TunedModel")
    assert tuned.name == f"tunedModels/{identifier}"
    assert len(tuned.tuning_task.snapshots) >= 1
    operation = models.operation(identifier)
    message = parsed(operation, "Operation")
    assert message.done == (identifier != "creating")
    assert message.metadata.type_url.endswith("CreateTunedModelMetadata")
    assert parsed(models.good("GET", f"/{operation['name']}"), "Operation").name == operation["name"]


def test_lists_models_and_answers_are_the_official_types(models: Client) -> None:
    """Every other response of the service."""
    assert len(parsed(models.good("GET", "/tunedModels"), "ListTunedModelsResponse").tuned_models) == len(STATES)
    assert parsed(models.good("GET", "/tunedModels", pageSize=1), "ListTunedModelsResponse").next_page_token
    assert parsed(models.good("GET", "/models"), "ListModelsResponse").models[0].name == "models/tiny"
    assert parsed(models.good("GET", "/models/tiny"), "Model").input_token_limit == 128
    counted = models.good("POST", "/models/tiny:countTokens", {"contents": prompt("1")["contents"]})
    assert parsed(counted, "CountTokensResponse").total_tokens > 0
    payload = prompt("1", maxOutputTokens=3)
    for path in ("/models/tiny", "/tunedModels/active"):
        answer = parsed(models.good("POST", f"{path}:generateContent", payload), "GenerateContentResponse")
        assert answer.candidates[0].content.parts[0].text is not None
        for part in models.call("POST", f"{path}:streamGenerateContent", payload).json():
            parsed(part, "GenerateContentResponse")
    permissions = models.good("GET", "/tunedModels/active/permissions")
    assert len(parsed(permissions, "ListPermissionsResponse").permissions) == 1
    assert parsed(models.good("GET", f"/{permissions['permissions'][0]['name']}"), "Permission").email_address
    assert parsed(models.good("GET", "/tunedModels/active/operations"), "ListOperationsResponse").operations


def test_an_answer_with_a_warning_has_one_field_more(models: Client) -> None:
    """finishMessage came to the API after google-ai-generativelanguage 0.6.15; without it the answer is the type."""
    answer = models.good("POST", "/tunedModels/cancelled:generateContent", prompt("1", maxOutputTokens=3))
    assert answer["candidates"][0].pop("finishMessage") == UNPREDICTABLE
    parsed(answer, "GenerateContentResponse")


def test_errors_are_google_rpc_status(client: Client) -> None:
    """Their details have the type that @type names; `status` is the name of the code."""
    from google.protobuf import json_format
    from google.rpc import code_pb2, error_details_pb2, status_pb2  # noqa: F401 - the types that Any looks for

    errors = [
        client.refused(status, method, path, payload)
        for status, method, path, payload in (
            (400, "POST", "/tunedModels", body(epochCount=-1)),
            (404, "GET", "/tunedModels/none", None),
            (400, "POST", "/tunedModels", {"description": 1}),
        )
    ]
    errors.append(httpx.get(f"{client.http.base_url}models", trust_env=False, timeout=60).json()["error"])
    for error in errors:
        assert error.pop("status") in code_pb2.Code.keys()  # noqa: SIM118 - an enum's, which is not a mapping
        assert error == json_format.MessageToDict(json_format.ParseDict(error, status_pb2.Status()))
    assert errors[-1]["details"]


@pytest.mark.parametrize(
    "hyperparameters",
    [
        TuningHyperparameters(epoch_count=3, batch_size=2, learning_rate=0.01),
        TuningHyperparameters(learning_rate=None, learning_rate_multiplier=0.5),
    ],
)
def test_every_request_of_the_backend_is_the_official_type(
    monkeypatch: pytest.MonkeyPatch, hyperparameters: TuningHyperparameters
) -> None:
    """Bodies of create, generateContent and cancel, as a service receives them."""
    monkeypatch.setenv("GEMINI_API_KEY", "planted-key")
    model = BaseModelRef(name="smollm2-135m", source="models/smollm2-135m")
    with GeminiService() as service:
        section = GeminiSection(kind="gemini", base_url=service.address)
        with GeminiBackend(section) as backend:
            backend.prepare([model])
            service.script.steps_per_look = 0
            request = request_of(model, key="a")
            ref = backend.submit(type(request)(**{**vars(request), "hyperparameters": hyperparameters}))
            backend.poll([ref])
            backend.cancel(ref)
            backend.generate(model, ["1"], GenerateOptions(max_output_tokens=3, temperature=0.5))
        sent = [(r.method, r.path, r.body) for r in service.requests if r.method == "POST"]
    assert [path.rpartition(":")[2] for _, path, _ in sent] == ["/v1beta/tunedModels", "cancel", "generateContent"]
    created = parsed(sent[0][2], "TunedModel")
    assert len(created.tuning_task.training_data.examples.examples) == len(request.training)
    assert sent[1][2] == {}
    config = sent[2][2]["generationConfig"]
    assert config.pop("seed") == 0  # came to the API after google-ai-generativelanguage 0.6.15
    assert parsed(sent[2][2], "GenerateContentRequest").generation_config.max_output_tokens == 3
