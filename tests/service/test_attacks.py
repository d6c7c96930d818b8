"""Requests that should not be sent, and faults that should not happen: each once, and the service keeps working."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.rigs.running_service import RunningService
from tests.service.client import ROWS, Client, body, prompt
from tunerun.job import Answer
from tunerun.service.app import Settings
from tunerun.service.connection import Connection
from tunerun.service.core.credentials import TUNING_SCOPE
from tunerun.testing.waiting import wait_until

LONG = 1_000_000
HALF = "\\ud800"


def post(client: Client, path: str, text: str) -> httpx.Response:
    return client.http.post(path, content=text.encode(), headers={"content-type": "application/json"})


@pytest.mark.parametrize("multiplier", ["5e-324", "1e-322", "1e-40"])
def test_a_rate_that_is_nothing_is_refused(client: Client, multiplier: str) -> None:
    """Else the engine's own check would stop the queue."""
    asked = body(learningRate=None, learningRateMultiplier=float(multiplier))
    error = client.refused(400, "POST", "/tunedModels", asked)
    assert "learningRateMultiplier: gives a learning rate of" in error["message"]


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 1e300},
        {"readerProjectNumbers": ["9" * 25]},
        {"tuningTask": {"hyperparameters": {"learningRate": 1e300}}},
    ],
)
def test_a_number_that_the_types_cannot_hold_is_refused(client: Client, changed: dict[str, Any]) -> None:
    """Else no client could read a list with it."""
    assert client.refused(400, "POST", "/tunedModels", body() | changed)["status"] == "INVALID_ARGUMENT"


def test_half_a_character_is_refused_wherever_it_is(client: Client) -> None:
    """In names, examples, sources and prompts: 400, and nothing of it is kept."""
    good = '{"baseModel": "models/tiny", "tuningTask": {"trainingData": {"examples": {"examples": [%s]}}}%s}'
    row = '{"textInput": "1", "output": "2"}'
    for text in (
        good % (row, f', "displayName": "{HALF}"'),
        good % (f'{{"textInput": "{HALF}", "output": "2"}}', ""),
        f'{{"tunedModelSource": {{"tunedModel": "tunedModels/{HALF}"}}}}',
    ):
        response = post(client, "/tunedModels", text)
        assert response.status_code == 400
        assert "unpaired surrogate" in response.json()["error"]["message"]
    for text in (f'{{"contents": [{{"parts": [{{"text": "{HALF}"}}]}}]}}',):
        assert post(client, "/models/tiny:generateContent", text).status_code == 400
    assert post(client, "/tunedModels", good % ('{"textInput": "\\u0000", "output": "2"}', "")).status_code == 200
    (made,) = client.good("GET", "/tunedModels")["tunedModels"]
    client.good("DELETE", f"/{made['name']}")


def test_many_wrong_examples_cost_little(client: Client) -> None:
    """A million of them are refused within seconds, and others are answered meanwhile."""
    content = '{"baseModel": "models/tiny", "tuningTask": {"trainingData": {"examples": {"examples": [%s]}}}}'
    for item in ('{"x":1}', "{}"):
        with ThreadPoolExecutor(1) as threads:
            refused = threads.submit(post, client, "/tunedModels", content % ",".join([item] * 1_000_000))
            with Client(
                str(client.http.base_url).removesuffix("/v1beta/"), client.http.headers["x-goog-api-key"]
            ) as two:
                assert two.good("GET", "/models")
            assert refused.result().status_code == 400


def test_a_filter_has_few_words(client: Client) -> None:
    """And finds letters beyond ASCII, large or small."""
    assert "at most 20" in client.refused(400, "GET", "/tunedModels", filter="x " * 1_200)["message"]
    client.good("POST", "/tunedModels", body(epochCount=1) | {"displayName": "Übersetzer"}, tunedModelId="u")
    assert len(client.good("GET", "/tunedModels", filter="übersetzer")["tunedModels"]) == 1
    client.good("DELETE", "/tunedModels/u")


def test_creating_granting_and_deleting_one_id_at_once_is_never_a_servers_error(client: Client) -> None:
    """The first one succeeds; the others get the reason."""

    def hammer(number: int) -> set[int]:
        path = "/tunedModels/raced"
        calls = (
            ("POST", "/tunedModels?tunedModelId=raced", body(epochCount=1)),
            ("POST", f"{path}/permissions", {"granteeType": "EVERYONE", "role": "READER"}),
            ("DELETE", path, None),
        )
        method, target, asked = calls[number % 3]
        with Client(str(client.http.base_url).removesuffix("/v1beta/"), client.http.headers["x-goog-api-key"]) as own:
            return {own.http.request(method, target, json=asked).status_code for _ in range(40)}

    with ThreadPoolExecutor(6) as threads:
        statuses = set().union(*threads.map(hammer, range(6)))
    assert statuses <= {200, 404, 409}
    client.call("DELETE", "/tunedModels/raced")


def test_values_of_zero_are_values(client: Client) -> None:
    """A temperature of 0 is shown, for the proto says that it may be missing; so are topP and topK."""
    asked = body(epochCount=1) | {"temperature": 0.0, "topP": 0.0, "topK": 0}
    client.good("POST", "/tunedModels", asked, tunedModelId="zero")
    shown = client.good("GET", "/tunedModels/zero")
    assert (shown["temperature"], shown["topP"], shown["topK"]) == (0.0, 0.0, 0)
    client.good("PATCH", "/tunedModels/zero", {"displayName": "x", "temperature": 9}, updateMask="displayName")
    client.good("DELETE", "/tunedModels/zero")


def test_without_a_seed_answers_differ(client: Client) -> None:
    """Above temperature 0, as the API says; with one they are the same."""
    asked = prompt("1", temperature=2.0, maxOutputTokens=12)
    free = {str(client.good("POST", "/models/tiny:generateContent", asked)["candidates"]) for _ in range(4)}
    assert len(free) > 1


def test_a_source_stays_until_its_child_is_tuned(client: Client) -> None:
    """Deleted while the child waits, no other caller finds it, and the child begins with it."""
    client.tuned("source", epochCount=1)
    client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId="blocker")
    asked = body(epochCount=1) | {"tunedModelSource": {"tunedModel": "tunedModels/source"}}
    del asked["baseModel"]
    client.good("POST", "/tunedModels", asked, tunedModelId="child")
    client.good("DELETE", "/tunedModels/source")
    client.refused(404, "GET", "/tunedModels/source")
    client.good("DELETE", "/tunedModels/blocker")
    assert client.finished("child")["state"] == "ACTIVE"
    client.good("DELETE", "/tunedModels/child")


def test_prompts_of_clients_that_are_gone_are_not_answered(client: Client, running: RunningService) -> None:
    """They are taken back from the queue; those that wait are."""
    port = int(running.address.rpartition(":")[2])
    content = b'{"contents":[{"parts":[{"text":"1"}]}],"generationConfig":{"temperature":1,"maxOutputTokens":90}}'
    head = (
        f"POST /v1beta/models/tiny:generateContent HTTP/1.1\r\nHost: localhost\r\nx-goog-api-key: {running.key.secret}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    for raw in waiting:
        raw.sendall(head.encode() + content)
    wait_until(lambda: running.service.answerer.waiting > 30, "many prompts wait")
    for raw in waiting:
        raw.close()
    assert client.good("POST", "/models/tiny:generateContent", prompt("1", maxOutputTokens=2))
    wait_until(lambda: running.service.answerer.waiting == 0, "no prompt waits")


def test_unknown_methods_are_one_series(running: RunningService) -> None:
    """Otherwise any caller could fill the memory with meters."""
    for number in range(3):
        httpx.request(f"ABC{number}", f"{running.address}/healthz", trust_env=False)
    text = httpx.get(f"{running.address}/metrics", trust_env=False).text
    assert "ABC" not in text
    assert 'method="other"' in text


def test_paths_that_are_nearly_right_are_not_found(client: Client) -> None:
    """No redirect that would leave the key behind, and no verb that the API has elsewhere alone."""
    for method, path in (
        ("GET", "/models/"),
        ("POST", "/models/tiny:embedContent"),
        ("POST", "/tunedModels/x:countTokens"),
    ):
        assert client.refused(404, method, path, {} if method == "POST" else None)["status"] == "NOT_FOUND"


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    """Settings for a service that the test starts itself."""
    return Settings(tmp_path / "state", settings.models, settings.cache, device="cpu", threads=1)


@pytest.fixture(scope="module")
def troubled(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose keys, database and engine tests may damage, if they repair them."""
    folder = tmp_path_factory.mktemp("troubled") / "state"
    with RunningService(Settings(folder, settings.models, settings.cache, device="cpu", threads=1)) as running:
        yield running


def test_the_state_is_for_its_owner_alone(running: RunningService) -> None:
    """It contains training data."""
    assert running.state.stat().st_mode & 0o077 == 0


def test_keys_that_cannot_be_read_are_an_answer_in_the_envelope(troubled: RunningService) -> None:
    """The error says nothing about files; repaired, they work again."""
    with Client(troubled.address, troubled.key.secret) as client:
        file = troubled.service.keys.path
        right = file.read_text()
        for wrong in ("{", '{"keys": [{"id": 1}]}', right.replace('"owner"', '"owned"')):
            file.write_text(wrong)
            error = client.refused(503, "GET", "/models")
            assert str(file) not in error["message"]
        file.write_text(right)
        assert client.good("GET", "/models")


def test_the_queue_continues_after_a_fault(troubled: RunningService, caplog: pytest.LogCaptureFixture) -> None:
    """A state that cannot be written for a while stops no later job, and the job under way ends whole."""
    with Client(troubled.address, troubled.key.secret) as client:
        client.good("POST", "/tunedModels", body(epochCount=40), tunedModelId="a")
        wait_until(lambda: client.steps("a") > 2, "steps are taken")
        troubled.service.state.database.rows("PRAGMA query_only = ON")
        wait_until(lambda: "a turn of the queue failed" in caplog.text, "the trouble is logged")
        troubled.service.state.database.rows("PRAGMA query_only = OFF")
        assert client.finished("a")["state"] == "ACTIVE"
        assert client.steps("a") == 120
        assert client.tuned("b")["state"] == "ACTIVE"


def test_a_job_whose_engine_is_killed_continues(troubled: RunningService) -> None:
    """Another engine trains it to its end, and its curve has each step once."""
    with Client(troubled.address, troubled.key.secret) as client:
        client.good("POST", "/tunedModels", body(epochCount=100), tunedModelId="killed")
        wait_until(lambda: client.steps("killed") > 2, "steps are taken")
        process = troubled.service.tuner._engines.engine_process_id
        assert process is not None
        os.kill(process, signal.SIGKILL)
        tuned = client.finished("killed")
        assert tuned["state"] == "ACTIVE"
        assert [one["step"] for one in tuned["tuningTask"]["snapshots"]] == list(range(1, 301))


def test_a_base_model_that_is_not_offered_any_more(own: Settings, tmp_path: Path) -> None:
    """What waits for it waits on, what was tuned from it says so, and nothing new starts from it."""
    second = replace(own.models[0], name="second", source=str(tmp_path / "second"))
    shutil.copytree(own.models[0].source, tmp_path / "second")
    both = Settings(own.state, [own.models[0], second], own.cache, device="cpu", threads=1)
    other = body(epochCount=1) | {"baseModel": "models/second"}
    with RunningService(both) as running, Client(running.address, running.key.secret) as client:
        client.good("POST", "/tunedModels", other, tunedModelId="tuned")
        client.finished("tuned")
        client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId="blocker")
        client.good("POST", "/tunedModels", other, tunedModelId="waits")
    with RunningService(own) as running, Client(running.address, running.key.secret) as client:
        client.good("DELETE", "/tunedModels/blocker")
        client.tuned("more")
        assert client.good("GET", "/tunedModels/waits")["state"] == "CREATING"
        error = client.refused(400, "POST", "/tunedModels/tuned:generateContent", prompt("1"))
        assert "models/second, which is not offered any more" in error["message"]
        asked = body() | {"tunedModelSource": {"tunedModel": "tunedModels/tuned"}}
        del asked["baseModel"]
        assert "not offered any more" in client.refused(400, "POST", "/tunedModels", asked)["message"]
    with RunningService(both) as running, Client(running.address, running.key.secret) as client:
        assert client.finished("waits")["state"] == "ACTIVE"


def test_prompts_that_wait_when_the_service_ends_are_refused(own: Settings) -> None:
    """503 in the envelope, and the service ends in good order."""
    with RunningService(own) as running, ThreadPoolExecutor(30) as threads:
        asked = prompt("1", temperature=1.0, maxOutputTokens=100)
        is_answering = threading.Event()

        def ask_until_refused(_number: int) -> tuple[int, Any]:
            with Client(running.address, running.key.secret) as client:
                while (response := client.call("POST", "/models/tiny:generateContent", asked)).status_code == 200:
                    is_answering.set()
                return response.status_code, response.json()["error"]["status"]

        answers = threads.map(ask_until_refused, range(30))
        assert is_answering.wait(60)
        running.service.answerer.refuse()
        assert set(answers) == {(503, "UNAVAILABLE")}


class Hasty(Connection):
    """Waits no half a minute for a request."""

    header_timeout_s = 0.5


def test_a_connection_without_a_request_is_closed(own: Settings) -> None:
    """Also one that sends half a line, before its first request and after one."""
    with RunningService(own, connection=Hasty) as running:
        port = int(running.address.rpartition(":")[2])
        for said in (b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /he"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                raw.sendall(said)
                received = b""
                while chunk := raw.recv(1000):
                    received += chunk
            assert received.count(b"HTTP/1.1 200 OK") == said.count(b"HTTP/1.1\r\n")


def test_a_caller_with_another_owners_source_is_refused(client: Client, running: RunningService) -> None:
    """To start from a tuned model one has to be its reader."""
    client.tuned("private", epochCount=1)
    key = running.service.keys.add("other@localhost", [TUNING_SCOPE])
    with Client(running.address, key.secret) as other:
        asked = body(ROWS[:1]) | {"tunedModelSource": {"tunedModel": "tunedModels/private"}}
        del asked["baseModel"]
        other.refused(404, "POST", "/tunedModels", asked)
    running.service.keys.revoke(key.id)
    client.good("DELETE", "/tunedModels/private")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1beta/models/tiny:streamGenerateContent?alt=sse", prompt("1", maxOutputTokens=110, temperature=2.0)),
        (
            "/v1/chat/completions",
            {
                "model": "tiny",
                "messages": [{"role": "user", "content": "1"}],
                "stream": True,
                "max_tokens": 110,
                "temperature": 2.0,
            },
        ),
    ],
    ids=["gemini", "openai"],
)
def test_a_stream_whose_client_hangs_up_ends_at_the_next_token(
    running: RunningService, monkeypatch: pytest.MonkeyPatch, path: str, asked: dict[str, Any]
) -> None:
    """Counted at the engine, so that it is free for others at once, and not only when the longest answer is done."""
    answerer = running.service.answerer
    ask = answerer.ask_together
    answers: list[Future[Answer]] = []

    def noted(*arguments: Any) -> list[Future[Answer]]:
        answers.extend(futures := ask(*arguments))
        return futures

    monkeypatch.setattr(answerer, "ask_together", noted)
    headers = {"authorization": f"Bearer {running.key.secret}"}
    for _ in range(20):  # some end before their client hangs up
        with httpx.stream("POST", running.address + path, json=asked, headers=headers, trust_env=False) as response:
            next(response.iter_lines())
    tokens = [answer.result().tokens for answer in answers]
    assert len(tokens) == 20
    assert statistics.median(tokens) < 90  # without a hang-up, two of three take all 108 that there is room for
