"""Requests as Google's own guides and newer clients send them: taken, though they are not quite what the API says."""

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


def test_the_guides_request_is_taken_verbatim(client: Client) -> None:
    """With its commas before closing brackets, and nothing of it is ignored."""
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
def test_one_object_is_taken_for_a_list_of_one(client: Client, contents: Any) -> None:
    """As contents and as parts, when a model is asked and when tokens are counted."""
    config = {"maxOutputTokens": 2, "stopSequences": "zz"}
    path = "/models/tiny:generateContent"
    asked = client.good("POST", path, {"contents": contents, "generationConfig": config})
    assert asked == client.good("POST", path, prompt("1", maxOutputTokens=2))
    counted = client.good("POST", "/models/tiny:countTokens", {"contents": contents})
    assert counted["totalTokens"] == asked["usageMetadata"]["promptTokenCount"]


def test_one_example_is_taken_for_a_list_of_one(client: Client) -> None:
    """In trainingData, where the list is nested twice."""
    task = {"trainingData": {"examples": {"examples": {"textInput": "1", "output": "2"}}}}
    response = client.call("POST", "/tunedModels", body() | {"tuningTask": task}, tunedModelId="one")
    assert response.status_code == 200, response.text
    client.good("DELETE", "/tunedModels/one")


def test_unknown_fields_are_ignored_and_named(client: Client) -> None:
    """A newer client's fields change nothing; a Warning header names each once, in ASCII and cut where it is long."""
    odd = {'q"\\\r\nx: y': 1, "ü": 2, "x" * 5000: 3}
    asked = body(epochCount=1, colour="red") | {"newer": {"deep": [1]}} | odd
    asked["tuningTask"]["trainingData"]["examples"]["examples"] = [{"textInput": "1", "output": "2", "weight": 2}] * 20
    response = client.call("POST", "/tunedModels", asked, tunedModelId="newer")
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
def test_a_body_that_cannot_be_read_is_refused(client: Client, text: str, words: str) -> None:
    """Names given twice, in either spelling, and what is not JSON."""
    response = post(client, "/models/tiny:generateContent", text)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_commas_are_taken_out_of_no_string() -> None:
    """Only before closing brackets, and never within a text, whatever quotes it holds."""
    text = r'{"a,]": [",}", "\",]", "\\",], "b": {"c": 1 , } , }'
    assert read_json(text.encode()) == {"a,]": [",}", '",]', "\\"], "b": {"c": 1}}


@pytest.mark.parametrize("text", ['["' + '\\"' * 10**6, '"' * 10**6, "[1" + ",]" * 10**6, "[1," + " " * 10**6 + "x"])
def test_hostile_bodies_are_read_in_linear_time(text: str) -> None:
    """Quotes, commas and spaces without end are refused, and pytest's own limit is not reached."""
    assert text.count(",]") > MAX_LAST_COMMAS or text.count(",") < 2
    with pytest.raises(ServiceError, match="is not JSON"):
        read_json(text.encode())
