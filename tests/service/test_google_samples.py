"""Requests as Google's guides and newer clients send them, which the API's documents do not quite allow."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.service.client import Client, body, prompt
from tunerun.service.core.problems import ServiceError
from tunerun.service.gemini.json_body import MAX_LAST_COMMAS, read_json
from tunerun.service.routes import MAX_IGNORED_CHARACTERS

# The tuning guide's cURL example (as last served, 2025-04-28), shortened to two examples, for the tiny model.
CURL = """
      {
        "display_name": "number generator model",
        "base_model": "models/tiny",
        "tuning_task": {
          "hyperparameters": {
            "batch_size": 2,
            "learning_rate": 0.001,
            "epoch_count":5,
          },
          "training_data": {
            "examples": {
              "examples": [
                {
                    "text_input": "1",
                    "output": "2",
                },{
                    "text_input": "seven",
                    "output": "eight",
                }
              ]
            }
          }
        }
      }"""


def post(client: Client, path: str, text: str) -> httpx.Response:
    return client.http.post(path, content=text.encode(), headers={"content-type": "application/json"})


def test_the_request_of_the_guide_is_accepted_verbatim(client: Client) -> None:
    """With its commas before closing brackets; none of its fields is ignored."""
    response = post(client, "/tunedModels?tunedModelId=verbatim", CURL)
    assert response.status_code == 200, response.text
    assert "ignored" not in response.headers["warning"]
    tuned = client.finished("verbatim")
    assert tuned["displayName"] == "number generator model"
    assert tuned["tuningTask"]["hyperparameters"] == {"epochCount": 5, "batchSize": 2, "learningRate": 0.001}
    client.good("DELETE", "/tunedModels/verbatim")


@pytest.mark.parametrize(
    "contents",
    [
        {"parts": [{"text": "1"}]},
        [{"parts": {"text": "1"}}],
        {"role": "user", "parts": {"text": "1"}},
    ],
)
def test_one_object_is_accepted_as_a_list_of_one(client: Client, contents: Any) -> None:
    """As contents and as parts, in a prompt and where tokens are counted."""
    config = {"maxOutputTokens": 2, "stopSequences": "zz"}
    path = "/models/tiny:generateContent"
    answer = client.good("POST", path, {"contents": contents, "generationConfig": config})
    assert answer == client.good("POST", path, prompt("1", maxOutputTokens=2))
    counted = client.good("POST", "/models/tiny:countTokens", {"contents": contents})
    assert counted["totalTokens"] == answer["usageMetadata"]["promptTokenCount"]


def test_one_example_is_accepted_as_a_list_of_one(client: Client) -> None:
    """In trainingData, where the list is nested twice."""
    task = {"trainingData": {"examples": {"examples": {"textInput": "1", "output": "2"}}}}
    response = client.call("POST", "/tunedModels", body() | {"tuningTask": task}, tunedModelId="one")
    assert response.status_code == 200, response.text
    client.good("DELETE", "/tunedModels/one")


def test_unknown_fields_are_ignored_and_named(client: Client) -> None:
    """A newer client's fields change nothing; a Warning header names each once, in ASCII and cut where it is long."""
    unprintable = {'q"\\\r\nx: y': 1, "ü": 2, "x" * 5000: 3}
    payload = body(epochCount=1, colour="red") | {"newer": {"deep": [1]}} | unprintable
    payload["tuningTask"]["trainingData"]["examples"]["examples"] = [
        {"textInput": "1", "output": "2", "weight": 2}
    ] * 20
    response = client.call("POST", "/tunedModels", payload, tunedModelId="newer")
    assert response.status_code == 200, response.text
    names = [
        "TunedModel.newer",
        "TunedModel.q????x: y",
        "TunedModel.?",
        f"TunedModel.{'x' * MAX_IGNORED_CHARACTERS}",
        "TuningExample.weight",
        "Hyperparameters.colour",
    ]
    words = "ignored, because this service does not know them: "
    assert response.headers["warning"] == f'299 tunerun "{words}{", ".join(names)}"'
    client.good("DELETE", "/tunedModels/newer")
    answer = client.call("POST", "/models/tiny:generateContent", prompt("1", maxOutputTokens=2, newest=True))
    assert answer.headers["warning"].endswith(': GenerationConfig.newest"')
    assert "warning" not in client.call("POST", "/models/tiny:generateContent", prompt("1", maxOutputTokens=2)).headers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"contents": [], "contents": []}', "gives the name 'contents' twice in one object"),
        ('{"generation_config": {}, "generationConfig": {}}', "gives the name 'generationConfig' twice"),
        ('{"contents": [1,,]}', "is not JSON"),
        ('{"contents": ', "is not JSON in UTF-8: Expecting value (line 1, column 14)"),
        ("[" * 100_000, "nested too deeply"),
        ('{"contents": ' + "1" * 5_000 + "}", "is not JSON in UTF-8: Exceeds the limit"),
    ],
)
def test_a_body_that_is_not_json_or_repeats_a_name_is_refused(client: Client, text: str, words: str) -> None:
    """Names in both spellings count as repeated."""
    response = post(client, "/models/tiny:generateContent", text)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_commas_within_strings_are_kept() -> None:
    """Only those before closing brackets are removed, whatever quotes a string contains."""
    text = r'{"a,]": [",}", "\",]", "\\",], "b": {"c": 1 , } , }'
    assert read_json(text.encode()) == {"a,]": [",}", '",]', "\\"], "b": {"c": 1}}


@pytest.mark.thorough
@pytest.mark.parametrize("text", ['["' + '\\"' * 10**6, '"' * 10**6, "[1" + ",]" * 10**6, "[1," + " " * 10**6 + "x"])
def test_hostile_bodies_are_read_in_linear_time(text: str) -> None:
    """Endless quotes, commas and spaces are refused within pytest's own time limit."""
    assert text.count(",]") > MAX_LAST_COMMAS or text.count(",") < 2
    with pytest.raises(ServiceError, match="is not JSON"):
        read_json(text.encode())
