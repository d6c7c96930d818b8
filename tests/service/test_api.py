"""The methods of the API, called as a client calls them, at a service that really tunes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.rigs.running_service import RunningService
from tests.service.client import ROWS, Client, body, continuing, prompt, turns
from tunerun.service.app import Settings
from tunerun.service.core.model_calls import UNPREDICTABLE
from tunerun.testing.waiting import wait_until
from tunerun.workers.local import LocalWorkers

LONG = 1_000_000
"""More epochs than a test waits for."""


def delete(client: Client, *identifiers: str) -> None:
    for identifier in identifiers:
        client.good("DELETE", f"/tunedModels/{identifier}")


def test_base_models_list_their_methods(client: Client) -> None:
    """A model that can be tuned lists createTunedModel; the list, the single model and v1 agree."""
    (listed,) = client.good("GET", "/models")["models"]
    assert listed["name"] == "models/tiny"
    assert listed["inputTokenLimit"] == 128
    assert (listed["temperature"], listed["topP"], listed["topK"], listed["maxTemperature"]) == (0.0, 1.0, 0, 2.0)
    assert "createTunedModel" in listed["supportedGenerationMethods"]
    assert client.good("GET", "/models/tiny") == listed
    assert client.http.get("../v1/models/tiny").json() == listed
    assert client.refused(404, "GET", "/models/none")["status"] == "NOT_FOUND"


def test_a_tuned_model_is_created_tuned_and_answers(client: Client) -> None:
    """The operation counts up to its end, the curve has every step, and the model answers what it learned."""
    first = client.good("POST", "/tunedModels", body(epochCount=60, batchSize=7), tunedModelId="learned")
    assert first["metadata"].keys() == {"@type", "totalSteps", "tunedModel"}
    assert (first["metadata"]["totalSteps"], first.get("done", False)) == (60, False)
    tuned = client.finished("learned")
    assert tuned["state"] == "ACTIVE"
    assert tuned["tuningTask"]["hyperparameters"] == {"epochCount": 60, "batchSize": 7, "learningRate": 0.01}
    assert (tuned["temperature"], tuned["topP"], tuned["topK"]) == (0.0, 1.0, 0)
    assert [s["step"] for s in tuned["tuningTask"]["snapshots"]] == list(range(1, 61))
    assert [s["epoch"] for s in tuned["tuningTask"]["snapshots"]] == list(range(1, 61))
    operation = client.good("GET", f"/{first['name']}")
    assert operation["done"] is True
    assert operation["metadata"]["completedPercent"] == 100
    assert operation["metadata"]["snapshots"] == tuned["tuningTask"]["snapshots"]
    assert operation["response"] == {"@type": operation["response"]["@type"], **tuned}
    answer = client.good("POST", "/tunedModels/learned:generateContent", prompt("twenty two"))
    assert answer["candidates"][0]["content"] == {"role": "model", "parts": [{"text": "twenty three"}]}
    assert answer["candidates"][0]["finishReason"] == "STOP"
    assert answer["usageMetadata"]["totalTokenCount"] == sum(
        answer["usageMetadata"][name] for name in ("promptTokenCount", "candidatesTokenCount")
    )
    counted = client.good("POST", "/models/tiny:countTokens", {"contents": prompt("twenty two")["contents"]})
    assert counted["totalTokens"] == answer["usageMetadata"]["promptTokenCount"]
    delete(client, "learned")
    client.refused(404, "GET", "/tunedModels/learned")
    client.refused(404, "POST", "/tunedModels/learned:generateContent", prompt("1"))


def test_a_stream_has_the_text_of_the_whole_answer(client: Client) -> None:
    """As server-sent events and as one array: the parts together are the answer, and the last has the reason of its end."""
    client.tuned("streamed", epochCount=60, batchSize=7)
    path, payload = "/tunedModels/streamed:streamGenerateContent", prompt("ninety nine")
    whole = client.good("POST", "/tunedModels/streamed:generateContent", payload)
    events = client.call("POST", path, payload, alt="sse")
    assert events.headers["content-type"].startswith("text/event-stream")
    parts = [json.loads(line.removeprefix("data: ")) for line in events.text.split("\r\n\r\n") if line]
    assert client.call("POST", path, payload).json() == parts
    assert len(parts) > 2
    assert "".join(p["candidates"][0]["content"]["parts"][0]["text"] for p in parts) == "one hundred"
    assert [p["candidates"][0].get("finishReason") for p in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1]["usageMetadata"] == whole["usageMetadata"]
    stopped = prompt("ninety nine", stopSequences=[" hun", "zz"])
    cut = client.call("POST", path, stopped).json()
    assert "".join(p["candidates"][0]["content"]["parts"][0]["text"] for p in cut) == "one"
    answer = client.good("POST", "/tunedModels/streamed:generateContent", stopped)
    assert cut[-1]["candidates"][0]["finishReason"] == answer["candidates"][0]["finishReason"] == "STOP"
    assert cut[-1]["usageMetadata"] == answer["usageMetadata"]
    assert answer["usageMetadata"]["candidatesTokenCount"] < whole["usageMetadata"]["candidatesTokenCount"]
    client.refused(400, "POST", path, prompt("x" * 40_001), alt="sse")
    delete(client, "streamed")


def test_an_answer_that_was_cut_has_the_reason_max_tokens(client: Client) -> None:
    """At maxOutputTokens; and sampling twice with one seed gives the same answer."""
    one = client.good("POST", "/models/tiny:generateContent", prompt("1", maxOutputTokens=1))
    assert one["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert one["usageMetadata"]["candidatesTokenCount"] == 1
    sampled = prompt("1", maxOutputTokens=8, temperature=1.0, seed=7, topK=50, topP=0.9)
    answers = [client.good("POST", "/models/tiny:generateContent", sampled) for _ in range(2)]
    assert answers[0] == answers[1]


def test_a_top_p_of_zero_samples_the_likeliest_token(client: Client) -> None:
    """topP is the share of probability to sample from, and the likeliest token always stays."""
    greedy, free = prompt("1", maxOutputTokens=6, temperature=0), prompt("1", maxOutputTokens=6, temperature=2, topP=0)
    base = "/models/tiny:generateContent"
    assert client.good("POST", base, free)["candidates"] == client.good("POST", base, greedy)["candidates"]


def test_a_request_may_be_written_as_proto3_allows(client: Client) -> None:
    """Names in snake_case, numbers as strings, null, zeros for defaults, `$alt` and the key in the query."""
    payload = {
        "base_model": "models/tiny",
        "display_name": "Sentence Translator",
        "description": None,
        "tuning_task": {
            "training_data": {"examples": {"examples": [{"text_input": "1", "output": "2"}]}},
            "hyperparameters": {"epoch_count": "1", "batch_size": 0, "learning_rate_multiplier": 2.0},
        },
    }
    secret = client.http.headers.pop("x-goog-api-key")
    made = client.good("POST", "/tunedModels", payload, **{"$alt": "json;enum-encoding=int", "key": secret})
    client.http.headers["authorization"] = f"Bearer {secret}"
    name = made["metadata"]["tunedModel"]
    assert re.fullmatch(r"tunedModels/sentence-translator-[0-9a-f]{12}", name)
    tuned = client.finished(name.removeprefix("tunedModels/"))
    assert tuned["tuningTask"]["hyperparameters"] == {"epochCount": 1, "batchSize": 4, "learningRate": 0.002}
    assert "description" not in tuned
    client.good("DELETE", f"/{name}")


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"baseModel": "models/none"}, "baseModel", "cannot be tuned here; there is models/tiny"),
        ({"baseModel": None}, "baseModel", "set either baseModel or tunedModelSource"),
        ({"displayName": "x" * 41}, "displayName", "has 41 characters, the limit is 40"),
        ({"temperature": 1.5}, "temperature", "must be from 0 to 1, not 1.5"),
        ({"topK": -1}, "topK", "must be 0 or more, not -1"),
        ({"tuningTask": None}, "tuningTask.trainingData.examples.examples", "at least one example is needed"),
        ({"tuningTask": 7}, "tuningTask", "valid"),
    ],
)
def test_an_invalid_field_is_named(client: Client, changed: Any, field: str, words: str) -> None:
    """INVALID_ARGUMENT or NOT_FOUND with google.rpc.BadRequest, and nothing is created."""
    response = client.call("POST", "/tunedModels", body() | changed)
    assert response.status_code in (400, 404)
    error = response.json()["error"]
    assert words in error["message"]
    violations = next(d for d in error["details"] if d["@type"].endswith("google.rpc.BadRequest"))["fieldViolations"]
    assert violations[0]["field"] == field
    assert client.good("GET", "/tunedModels") == {}


@pytest.mark.parametrize(
    ("hyperparameters", "words"),
    [
        ({"learningRateMultiplier": 2}, "learningRate and learningRateMultiplier exclude each other"),
        ({"learningRate": -1}, "learningRate: must be greater than 0, not -1"),
        ({"epochCount": -1}, "epochCount: must be 1 or more, not -1"),
        ({"batchSize": 3_000_000_000}, "batchSize"),
        ({"epochCount": 2_000_000_000, "batchSize": 1}, "the limit is 2,147,483,647"),
        ({"epochCount": 1.5}, "epochCount"),
        ({"learningRate": "fast"}, "learningRate"),
    ],
)
def test_invalid_hyperparameters_are_refused(client: Client, hyperparameters: Any, words: str) -> None:
    """Each with the field and what is allowed."""
    assert words in client.refused(400, "POST", "/tunedModels", body(**hyperparameters))["message"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "at least one example is needed"),
        ([{"textInput": "1"}], "examples[0].output: is blank"),
        ([{"textInput": " ", "output": "2"}], "examples[0].textInput: is blank"),
        ([{"textInput": "x" * 40_001, "output": "2"}], "has 40,001 characters, the limit is 40,000"),
        ([{"textInput": "1", "output": "x" * 5_001}], "has 5,001 characters, the limit is 5,000"),
        ([{"textInput": "x" * 40_000, "output": "2"}] * 105, "4,200,105 bytes of examples, the limit is 4,194,304"),
        ([{"textInput": "1", "output": ""}, {"textInput": "", "output": "1"}], "and 1 more"),
        (
            [{"textInput": "1", "output": "2"}, {"textInput": "9" * 200, "output": "2"}],
            "tokens including the chat format; the limit of models/tiny is 128; shorten it",
        ),
    ],
)
def test_examples_have_the_limits_of_the_guide(client: Client, rows: Any, words: str) -> None:
    """Characters in and out, bytes in all, none blank, at least one, none longer than the base model's context."""
    assert words in client.refused(400, "POST", "/tunedModels", body(rows))["message"]


def test_few_examples_give_a_warning(client: Client) -> None:
    """Below 20 examples the response has a Warning header; the model is created nevertheless."""
    response = client.call("POST", "/tunedModels", body(ROWS[:1]), tunedModelId="few")
    assert response.status_code == 200
    assert "1 training examples; the Gemini API's tuning guide advises at least 20" in response.headers["warning"]
    many = client.call("POST", "/tunedModels", body([{"textInput": "1", "output": "2"}] * 20), tunedModelId="many")
    assert "warning" not in many.headers
    delete(client, "few", "many")


def test_many_examples_have_other_defaults(client: Client) -> None:
    """Above 500 examples the batch is 16 and the rate 0.0002."""
    rows = [{"textInput": str(n), "output": str(n + 1)} for n in range(501)]
    payload = body(rows)
    del payload["tuningTask"]["hyperparameters"]
    client.good("POST", "/tunedModels", payload, tunedModelId="large")
    task = client.good("GET", "/tunedModels/large")["tuningTask"]
    assert task["hyperparameters"] == {"epochCount": 5, "batchSize": 16, "learningRate": 0.0002}
    delete(client, "large")


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (prompt("1") | {"systemInstruction": {"parts": [{"fileData": {}}]}}, "systemInstruction.parts[0].fileData"),
        (prompt("1" * 39_000) | {"systemInstruction": {"parts": [{"text": "1" * 2_000}]}}, "contents"),
        (prompt("1", responseMimeType="application/json"), "generationConfig.responseMimeType"),
        (prompt("1", responseSchema={"type": "OBJECT"}), "generationConfig.responseSchema"),
        (prompt("1", candidateCount=2), "generationConfig.candidateCount"),
        (prompt("1", temperature=3), "generationConfig.temperature"),
        (prompt("1", stopSequences=list("abcdef")), "generationConfig.stopSequences"),
        (prompt("x" * 40_001), "contents"),
        (prompt("x " * 200), "contents"),
        ({"contents": []}, "contents"),
        (turns("1", "2"), "contents[1].role"),
        (turns("1", "2", "3", roles=("user", "user", "user")), "contents[1].role"),
        (turns("1", "2", "3", roles=("user", "model", "model")), "contents[2].role"),
        (turns("1", "", "3"), "contents[1].parts"),
        (turns("x" * 20_000, "2", "x" * 20_000), "contents"),
        (turns("1 " * 30, "2 " * 30, "3 " * 30), "contents"),
        ({"contents": [{"role": "model", "parts": [{"text": "1"}]}]}, "contents[0].role"),
        ({"contents": [{"parts": [{"inlineData": {"data": "AA=="}}]}]}, "contents[0].parts[0].inlineData"),
        (prompt("1") | {"tools": [{}]}, "tools"),
        (prompt("1") | {"cachedContent": "cachedContents/1"}, "cachedContent"),
    ],
)
def test_unsupported_features_of_a_prompt_are_refused_with_the_field(client: Client, payload: Any, field: str) -> None:
    """No JSON mode, turns that alternate, text only, at most 40,000 characters, room for an answer."""
    error = client.refused(400, "POST", "/models/tiny:generateContent", payload)
    assert error["status"] == "INVALID_ARGUMENT"
    assert error["details"][0]["fieldViolations"][0]["field"] == field


def test_a_tuned_model_refuses_what_its_base_model_refuses(client: Client) -> None:
    """By the reader of the request, by its limit on characters, and by the engine's limit on tokens."""
    client.tuned("strict", epochCount=1)
    for payload in (prompt("1", candidateCount=2), prompt("x" * 40_001), prompt("x " * 200)):
        error = client.refused(400, "POST", "/tunedModels/strict:generateContent", payload)
        assert error == client.refused(400, "POST", "/models/tiny:generateContent", payload)
    delete(client, "strict")


def test_a_conversation_of_several_turns_is_answered_and_counted(client: Client) -> None:
    """Base and tuned models see the earlier turns; streaming gives the same answer; the tokens count all turns."""
    client.tuned("talks")
    alone, talk = prompt("8"), turns("1", "2", "twenty two", "twenty three", "8")
    config = {"generationConfig": {"temperature": 0, "maxOutputTokens": 8}}
    for model in ("/models/tiny", "/tunedModels/talks"):
        answer = client.good("POST", f"{model}:generateContent", talk | config)
        whole = answer["candidates"][0]["content"]["parts"][0]["text"]
        streamed = client.http.post(f"{model}:streamGenerateContent", json=talk | config).json()
        assert "".join(part["candidates"][0]["content"]["parts"][0]["text"] for part in streamed) == whole
        counts = [
            client.good("POST", "/models/tiny:countTokens", {"contents": payload["contents"]})["totalTokens"]
            for payload in (alone, talk)
        ]
        assert answer["usageMetadata"]["promptTokenCount"] == counts[1] > counts[0]
    delete(client, "talks")


def test_a_system_instruction_reaches_the_model_and_is_counted(client: Client) -> None:
    """With a warning for tuned models, since Google's accept none, nor chat history; also at LiteLLM's path of a tuned model."""
    client.tuned("hears", epochCount=20)
    plain = prompt("twenty two", maxOutputTokens=8)
    instructed = plain | {"systemInstruction": {"parts": [{"text": "one "}, {"text": "two three"}]}}
    talk = turns("1", "2", "3") | {"generationConfig": {"maxOutputTokens": 8}}
    counts = [
        client.good("POST", "/models/tiny:countTokens", {"generateContentRequest": payload | {"model": "models/tiny"}})
        for payload in (plain, instructed)
    ]
    assert counts[1]["totalTokens"] > counts[0]["totalTokens"]
    for model in ("/models/tiny", "/tunedModels/hears", "/models/tunedModels/hears"):
        answer = client.call("POST", f"{model}:generateContent", instructed)
        content = answer.json()
        assert content["usageMetadata"]["promptTokenCount"] == counts[1]["totalTokens"]
        streamed = client.http.post(f"{model}:streamGenerateContent?alt=sse", json=instructed)
        parts = [json.loads(line.removeprefix("data: ")) for line in streamed.text.splitlines() if line]
        text = "".join(part["candidates"][0]["content"]["parts"][0]["text"] for part in parts)
        assert text == content["candidates"][0]["content"]["parts"][0]["text"]
        warnings = [
            one.headers.get("warning")
            for one in (answer, streamed, client.call("POST", f"{model}:generateContent", talk))
        ]
        assert all(
            ("neither a system instruction nor chat history" in (one or "")) == ("tuned" in model) for one in warnings
        )
        assert client.call("POST", f"{model}:generateContent", plain).headers.get("warning") is None
    delete(client, "hears")


def test_an_id_can_be_used_once_at_a_time(client: Client) -> None:
    """A second create with it is 409; an invalid id is refused; the id of a deleted model can be used again."""
    client.good("POST", "/tunedModels", body(), tunedModelId="once")
    assert client.refused(409, "POST", "/tunedModels", body(), tunedModelId="once")["status"] == "ALREADY_EXISTS"
    for wrong in ("../x", "Once", "1x", "x-", "x" * 41, "a b", "x/../y"):
        assert "is not an id" in client.refused(400, "POST", "/tunedModels", body(), tunedModelId=wrong)["message"]
    delete(client, "once")
    client.tuned("once")
    delete(client, "once")


def test_a_list_has_pages_and_a_filter(client: Client, other: Client) -> None:
    """In the order of creation; a token belongs to its filter; others' models are not in it."""
    for number in range(12):
        payload = body(epochCount=LONG) | {"displayName": f"Model {number}", "description": "even" * (1 - number % 2)}
        client.good("POST", "/tunedModels", payload, tunedModelId=f"page-{number}")
    first = client.good("GET", "/tunedModels")
    assert [m["name"] for m in first["tunedModels"]] == [f"tunedModels/page-{n}" for n in range(10)]
    rest = client.good("GET", "/tunedModels", pageToken=first["nextPageToken"])
    assert [m["displayName"] for m in rest["tunedModels"]] == ["Model 10", "Model 11"]
    assert "nextPageToken" not in rest
    even = client.good("GET", "/tunedModels", filter="EVEN model", pageSize=100)
    assert len(even["tunedModels"]) == 6
    client.refused(400, "GET", "/tunedModels", pageToken=first["nextPageToken"], filter="even")
    client.refused(400, "GET", "/tunedModels", pageToken="rubbish")
    client.refused(400, "GET", "/tunedModels", pageSize=-1)
    for unknown in ("owner:you", "state:ACTIVE", "displayName=x", 'name:"x"', "-state:FAILED"):
        assert "is unknown; there is owner:me" in client.refused(400, "GET", "/tunedModels", filter=unknown)["message"]
    assert client.good("GET", "/tunedModels", filter='"state:ACTIVE"') == {}
    assert other.good("GET", "/tunedModels") == {}
    client.good("POST", "/tunedModels/page-0/permissions", {"granteeType": 3, "role": 3})
    assert other.good("GET", "/tunedModels") == {}
    (shared,) = other.good("GET", "/tunedModels", filter="readers:everyone")["tunedModels"]
    assert shared["name"] == "tunedModels/page-0"
    assert other.good("GET", "/tunedModels", filter="owner:me") == {}
    delete(client, *(f"page-{n}" for n in range(12)))


def test_a_mask_selects_the_fields_to_change(client: Client) -> None:
    """Only fields of the mask change; what the job has used cannot be changed."""
    client.good("POST", "/tunedModels", body(epochCount=LONG) | {"displayName": "Old"}, tunedModelId="changed")
    path = "/tunedModels/changed"
    new = {"displayName": "New", "description": "words", "temperature": 0.5, "state": 2, "baseModel": "models/tiny"}
    changed = client.good("PATCH", path, new, updateMask="display_name,temperature")
    assert (changed["displayName"], changed["temperature"], changed.get("description")) == ("New", 0.5, None)
    changed = client.good("PATCH", path, {"description": "words", "readerProjectNumbers": ["12345678901234"]})
    assert (changed["description"], changed["displayName"]) == ("words", "New")
    assert changed["readerProjectNumbers"] == ["12345678901234"]
    assert "displayName" not in client.good("PATCH", path, {}, updateMask="displayName")
    assert "baseModel" not in client.refused(400, "PATCH", path, new, updateMask="base_model")["message"].split(";")[1]
    client.refused(400, "PATCH", path, {"temperature": 2})
    delete(client, "changed")


def test_a_running_job_is_cancelled_within_a_step_and_keeps_what_it_learned(client: Client) -> None:
    """The operation carries CANCELLED, the model answers, and warns that its quality is unpredictable."""
    client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId="stopped")
    wait_until(lambda: client.steps("stopped") >= 2, "two steps are taken")
    operation = client.operation("stopped")
    before = client.steps("stopped")
    assert client.good("POST", f"/{operation['name']}:cancel") == {}
    tuned = client.finished("stopped")
    assert tuned["state"] == "FAILED"
    assert len(tuned["tuningTask"]["snapshots"]) < before + 200
    ended = client.operation("stopped")
    assert ended["error"]["code"] == 1
    assert "quality is unpredictable" in ended["error"]["message"]
    response = client.call("POST", "/tunedModels/stopped:generateContent", prompt("1", maxOutputTokens=4))
    assert response.status_code == 200
    assert UNPREDICTABLE in response.headers["warning"]
    assert response.json()["candidates"][0]["finishMessage"] == UNPREDICTABLE
    assert client.good("POST", f"/{operation['name']}:cancel") == {}
    delete(client, "stopped")


def test_a_queued_job_can_be_cancelled_before_its_first_step(client: Client) -> None:
    """At v1's path and at the one that google-genai calls; such a model cannot answer."""
    client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId="first")
    for identifier, path in (("second", "{name}:cancel"), ("third", "tunedModels/third:cancel")):
        operation = client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId=identifier)
        address = str(client.http.base_url).replace("/v1beta", "/v1")
        assert client.http.post(f"{address}{path.format(name=operation['name'])}", json={}).json() == {}
        assert client.finished(identifier)["state"] == "FAILED"
        error = client.refused(400, "POST", f"/tunedModels/{identifier}:generateContent", prompt("1"))
        assert error["status"] == "FAILED_PRECONDITION"
        assert "before its first step" in error["message"]
    assert (
        "still being tuned" in client.refused(400, "POST", "/tunedModels/first:generateContent", prompt("1"))["message"]
    )
    delete(client, "first", "second", "third")


def test_tuning_can_continue_a_tuned_model(client: Client) -> None:
    """Its loss begins near the last loss of the source."""
    first = client.tuned("parent", epochCount=20, batchSize=7)
    payload = continuing("parent", epochCount=5, batchSize=7)
    client.good("POST", "/tunedModels", payload, tunedModelId="child")
    child = client.finished("child")
    assert child["tunedModelSource"] == {"tunedModel": "tunedModels/parent", "baseModel": "models/tiny"}
    losses = [s["meanLoss"] for s in first["tuningTask"]["snapshots"]]
    begins = child["tuningTask"]["snapshots"][0]["meanLoss"]
    assert begins < losses[-1] < losses[0] / 2
    client.refused(404, "POST", "/tunedModels", payload | {"tunedModelSource": {"tunedModel": "tunedModels/none"}})
    delete(client, "parent", "child")


def test_a_job_that_diverges_fails_with_its_reason(client: Client) -> None:
    """The operation has the error, and the model cannot answer."""
    client.good("POST", "/tunedModels", body(epochCount=50, learningRate=1e9), tunedModelId="diverged")
    assert client.finished("diverged")["state"] == "FAILED"
    error = client.operation("diverged")["error"]
    assert error["code"] == 13
    assert error["message"].startswith("diverged: ")
    assert error["message"].endswith("; lower tuningTask.hyperparameters.learningRate")
    client.refused(400, "POST", "/tunedModels/diverged:generateContent", prompt("1"))
    delete(client, "diverged")


def test_unknown_paths_are_not_found(client: Client, running: RunningService) -> None:
    """They are refused in the API's envelope; no path leaves the state folder."""
    client.refused(404, "GET", "/corpora")
    client.refused(404, "GET", "/tunedModels/%2e%2e%2fkeys.json")
    refused = client.call("PUT", "/tunedModels/x")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, PATCH, DELETE")
    static = httpx.post(f"{running.address}/static/style.css", trust_env=False, timeout=60)
    assert (static.status_code, static.headers["allow"]) == (405, "GET, HEAD")
    plain = httpx.get(f"{running.address}/static/../../keys.json", trust_env=False, timeout=60)
    assert plain.status_code == 404
    assert httpx.get(f"{running.address}/healthz", trust_env=False, timeout=60).text == "ok\n"


def test_metrics_count_requests_and_tuned_models(client: Client, running: RunningService) -> None:
    """Requests by route and status, tuned models by state, in Prometheus' text format."""
    client.good("GET", "/models")
    text = httpx.get(f"{running.address}/metrics", trust_env=False, timeout=60).text
    assert 'tunerun_requests_total{method="GET",route="/v1beta/models",status="200",wire="gemini"}' in text
    assert 'tunerun_tuned_models{state="ACTIVE"}' in text


def test_two_workers_tune_two_models_at_once(settings: Settings, tmp_path: Path) -> None:
    """Each in an engine of its own; a third one waits for the first that is free."""
    own = replace(settings, state=tmp_path / "state", workers=LocalWorkers(kind="local", count=2))
    with RunningService(own) as running, Client(running.address, running.key.secret) as client:
        for identifier in ("a", "b", "c"):
            client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId=identifier)
        wait_until(lambda: min(client.steps("a"), client.steps("b")) > 1, "both take steps")
        assert client.steps("c") == 0
        delete(client, "a")
        wait_until(lambda: client.steps("c") > 1, "the third takes steps")
