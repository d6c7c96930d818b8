"""Chat and legacy completions through OpenAI's own client, which validates every response strictly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel, ConfigDict

from tests.rigs.running_service import RunningService
from tests.service.client import Client
from tests.service.openai.conftest import client_of
from tunerun.service.openai import names

USER: list[Any] = [{"role": "user", "content": "ninety nine"}]


@pytest.fixture(scope="module")
def sdk(running: RunningService) -> Iterator[OpenAI]:
    """The client in its strict mode; nothing is deleted between the tests of this module."""
    with client_of(running, running.key.secret) as client:
        yield client


@pytest.fixture(scope="module")
def tuned(running: RunningService) -> Iterator[str]:
    """The name on this wire of a model that was tuned over the Gemini wire."""
    with Client(running.address, running.key.secret) as client:
        client.tuned("chatty", epochCount=60, batchSize=7)
        row = running.service.state.tuned_model("chatty")
        assert row is not None
        yield names.model_name(row)
        client.call("DELETE", "/tunedModels/chatty")


def refused(sdk: OpenAI, **fields: Any) -> openai.BadRequestError:
    """Return the error of an invalid request."""
    request = {"model": "tiny", "messages": USER} | fields
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**request)
    assert caught.value.request_id
    return caught.value


def test_a_tuned_model_answers_by_both_of_its_names(sdk: OpenAI, tuned: str) -> None:
    """Greedily by default; the response has the name of the request, and the token counts."""
    for name in (tuned, "tunedModels/chatty"):
        answer = sdk.chat.completions.create(model=name, messages=USER)
        (choice,) = answer.choices
        assert (choice.message.content, choice.finish_reason) == ("one hundred", "stop")
        assert answer.model == name
        assert answer.usage is not None
        assert answer.usage.prompt_tokens + answer.usage.completion_tokens == answer.usage.total_tokens
    assert sdk.completions.create(model=tuned, prompt=["8", "seven"], n=1).choices[1].text == "eight"


def test_a_conversation_may_have_a_system_message_earlier_turns_and_parts(sdk: OpenAI) -> None:
    """Text parts are joined, and so are consecutive messages of one role; the prompt contains all earlier turns."""
    said: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "ninety "}, {"type": "text", "text": "nine"}]}
    ]
    short = sdk.chat.completions.create(model="tiny", messages=said, max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.choices[0] == sdk.chat.completions.create(model="tiny", messages=USER, max_tokens=2).choices[0]
    in_two: list[Any] = [{"role": "user", "content": "ninety"}, {"role": "user", "content": "nine"}]
    in_one: list[Any] = [{"role": "user", "content": "ninety\nnine"}]
    two, one = (
        sdk.chat.completions.create(model="tiny", messages=said, max_tokens=2, logprobs=True)
        for said in (in_two, in_one)
    )
    assert (two.choices, two.usage) == (one.choices, one.usage)
    earlier: list[Any] = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, *USER]
    more = sdk.chat.completions.create(model="tiny", messages=earlier, max_tokens=2)
    assert short.usage is not None
    assert more.usage is not None
    assert more.usage.prompt_tokens > short.usage.prompt_tokens


def test_several_answers_have_consecutive_seeds(sdk: OpenAI) -> None:
    """Answer i has seed + i, so it equals the answer to a request with that seed; nulls count as absent."""
    request: dict[str, Any] = {"model": "tiny", "messages": USER, "temperature": 1.7, "max_tokens": 6}
    nulls: dict[str, Any] = {"stop": None, "user": None, "response_format": None}
    three = sdk.chat.completions.create(**request, **nulls, n=3, seed=5)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in three.choices}) == 3
    one = sdk.chat.completions.create(**request, seed=6)
    assert one.choices[0].message.content == three.choices[1].message.content


def test_a_top_p_of_zero_samples_the_likeliest_token(sdk: OpenAI) -> None:
    """Nucleus sampling always keeps one token, so the answers are the greedy one, whatever their seeds."""
    request: dict[str, Any] = {"model": "tiny", "messages": USER, "max_tokens": 6}
    greedy = sdk.chat.completions.create(**request, temperature=0)
    narrow = sdk.chat.completions.create(**request, temperature=2, top_p=0, n=3)
    assert {choice.message.content for choice in narrow.choices} == {greedy.choices[0].message.content}


def test_a_stream_adds_up_to_the_answer(sdk: OpenAI, tuned: str) -> None:
    """Each answer's role comes first and its finish reason last; the usage follows if the request asks for it."""
    request: dict[str, Any] = {"model": tuned, "messages": USER, "logprobs": True, "top_logprobs": 2}
    chunks: list[ChatCompletionChunk] = list(
        sdk.chat.completions.create(**request, n=2, stream=True, stream_options={"include_usage": True})
    )
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []
    for number in range(2):
        own = [chunk.choices[0] for chunk in chunks[:-1] if chunk.choices[0].index == number]
        assert "".join(choice.delta.content or "" for choice in own) == "one hundred"
        assert [choice.finish_reason for choice in own if choice.finish_reason] == ["stop"]
        scores = [one for choice in own for one in (choice.logprobs.content or [] if choice.logprobs else [])]
        assert bytes(byte for one in scores for byte in one.bytes or ()).decode() == "one hundred"
        assert {len(one.top_logprobs) for one in scores} == {2}
    with sdk.chat.completions.stream(model=tuned, messages=USER) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].message.content == "one hundred"
    assert "content.done" in kinds


class Label(BaseModel):
    """The schema of an answer."""

    model_config = ConfigDict(extra="forbid")
    label: Literal["seven", "eight"]
    sure: bool


def test_an_answer_conforms_to_the_schema_of_its_request(sdk: OpenAI, tuned: str) -> None:
    """As the client's `parse` sends it, for base and tuned models; `json_object` allows any object."""
    for model in ("tiny", tuned):
        parsed = sdk.chat.completions.parse(model=model, messages=USER, response_format=Label)
        assert isinstance(parsed.choices[0].message.parsed, Label)
    answer = sdk.chat.completions.create(
        model=tuned,
        messages=USER,
        response_format={"type": "json_object"},
        max_tokens=2,
        logprobs=True,
    )
    assert str(answer.choices[0].message.content).startswith("{")


def test_unsupported_fields_are_refused_by_name(sdk: OpenAI) -> None:
    """Fields that cannot change an answer are ignored; unknown fields are listed in a header."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("tools", {"tools": [tool]}),
        ("tool_choice", {"tool_choice": "required"}),
        ("logit_bias", {"logit_bias": {"5": 1}}),
        ("presence_penalty", {"presence_penalty": 0.5}),
        ("modalities", {"modalities": ["text", "audio"]}),
        ("temperature", {"temperature": 2.5}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("n", {"n": 0}),
        ("stop", {"stop": ["a"] * 5}),
        ("max_completion_tokens", {"max_completion_tokens": 0}),
        ("messages[0].content[0]", {"messages": [{"role": "user", "content": image}]}),
        ("messages[0].role", {"messages": [{"role": "tool", "content": "1", "tool_call_id": "x"}]}),
        ("messages[1].role", {"messages": [*USER, {"role": "assistant", "content": "one"}]}),
        ("messages", {"messages": [{"role": "user", "content": "1 " * 200}]}),
        ("messages", {"messages": []}),
        (
            "response_format",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
        ),
        ("response_format.type", {"response_format": {"type": "xml"}}),
    ]
    for param, fields in wrong:
        error = refused(sdk, **fields)
        assert (error.param, error.type) == (param, "invalid_request_error"), error
    harmless = {"tools": [], "presence_penalty": 0, "user": "me", "store": True, "metadata": {"a": "b"}}
    raw = sdk.chat.completions.with_raw_response.create(
        model="tiny",
        messages=USER,
        max_tokens=1,
        extra_body=harmless | {"top_k": 3},
    )
    assert raw.headers["x-tunerun-ignored"] == "top_k"
    with pytest.raises(openai.NotFoundError, match="GET /v1/models lists all models") as caught:
        sdk.chat.completions.create(model="gpt-4o", messages=USER)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_legacy_completions_have_their_own_format(sdk: OpenAI, tuned: str) -> None:
    """Each prompt is one message of the user; logprobs are four lists; other fields are refused by name."""
    answer = sdk.completions.create(model=tuned, prompt="ninety nine", logprobs=1)
    (choice,) = answer.choices
    assert choice.text == "one hundred"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == "one hundred"
    assert choice.logprobs.text_offset is not None
    assert choice.logprobs.text_offset[0] == 0
    for fields in ({"echo": True}, {"suffix": "x"}, {"best_of": 3}, {"prompt": [[1, 2]]}):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.completions.create(**({"model": tuned, "prompt": "1"} | fields))
        assert caught.value.param == next(iter(fields))


def test_a_stream_of_legacy_completions_adds_up_to_the_text(running: RunningService, sdk: OpenAI, tuned: str) -> None:
    """Parts before the last have no finish reason, as at OpenAI, which the client's strict mode rejects."""
    with client_of(running, running.key.secret, strict=False) as lenient:
        chunks = list(lenient.completions.create(model=tuned, prompt="ninety nine", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one hundred"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_errors_of_unsupported_paths_say_what_to_do(running: RunningService) -> None:
    """In OpenAI's envelope, also for paths without `/v1`, other methods, and requests without a valid key."""
    bearer = {"authorization": f"Bearer {running.key.secret}"}
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/chat/completions", {"json": {}}),
        ("POST", "/v1/responses", {"json": {"model": "tiny", "input": "1"}}),
        ("GET", "/v1/chat/completions", {}),
        ("GET", "/v1/nothing", {}),
        ("POST", "/v1/completions", {"headers": {"authorization": "Bearer wrong"}}),
        ("POST", "/openai/deployments/tiny/chat/completions?api-version=1", {"content": b"[1"}),
        ("POST", "/v1/uploads", {"json": {"filename": "a", "bytes": 1}}),
        ("POST", "/v1/uploads/upload_1/complete", {"json": {}}),
    ]
    with httpx.Client(base_url=running.address, trust_env=False, headers=bearer) as http:
        responses = {path: http.request(method, path, **more) for method, path, more in requests}
    assert [response.status_code for response in responses.values()] == [404, 404, 405, 404, 401, 400, 404, 404]
    for response in responses.values():
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-request-id"]
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    messages = [response.json()["error"]["message"] for response in responses.values()]
    assert "the base URL of this service ends in /v1" in messages[0]
    assert "POST /v1/chat/completions" in messages[1]
    assert "is not JSON" in messages[5]
    assert all("POST /v1/files" in message for message in messages[6:])
    assert responses["/v1/completions"].json()["error"]["code"] == "invalid_api_key"


def test_azures_client_calls_a_deployment(running: RunningService, tuned: str) -> None:
    """Path and key are Azure's; the body names the model."""
    with openai.AzureOpenAI(
        azure_endpoint=running.address, api_key=running.key.secret, api_version="2024-10-21"
    ) as azure:
        answer = azure.chat.completions.create(model=tuned, messages=USER)
    assert answer.choices[0].message.content == "one hundred"
