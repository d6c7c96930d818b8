"""Hostile requests and faults: the service refuses them or recovers, and keeps working."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.rigs.running_service import RunningService
from tests.service.client import ROWS, Client, body, continuing, prompt
from tunerun.backends.local import LocalBackend
from tunerun.backends.local.engine_calls import OnPart
from tunerun.generation import Answer, GenerateOptions, Prompt
from tunerun.job import BaseModelRef
from tunerun.service.app import Settings
from tunerun.service.connection import Connection
from tunerun.service.core.answerer import Answerer
from tunerun.service.core.credentials import TUNING_SCOPE
from tunerun.testing.waiting import wait_until

LONG = 1_000_000
HALF = "\\ud800"


def post(client: Client, path: str, text: str) -> httpx.Response:
    return client.http.post(path, content=text.encode(), headers={"content-type": "application/json"})


@pytest.mark.parametrize("multiplier", ["5e-324", "1e-322", "1e-40"])
def test_a_learning_rate_that_float32_rounds_to_zero_is_refused(client: Client, multiplier: str) -> None:
    """Otherwise the engine's own check would stop the queue."""
    payload = body(learningRate=None, learningRateMultiplier=float(multiplier))
    error = client.refused(400, "POST", "/tunedModels", payload)
    assert "learningRateMultiplier: gives a learning rate of" in error["message"]


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 1e300},
        {"readerProjectNumbers": ["9" * 25]},
        {"tuningTask": {"hyperparameters": {"learningRate": 1e300}}},
    ],
)
def test_a_number_outside_the_range_of_its_type_is_refused(client: Client, changed: dict[str, Any]) -> None:
    """Otherwise no client could read a list that contains it."""
    assert client.refused(400, "POST", "/tunedModels", body() | changed)["status"] == "INVALID_ARGUMENT"


def test_an_unpaired_surrogate_is_refused_everywhere(client: Client) -> None:
    """In names, examples, sources and prompts: 400, and nothing of the request is stored."""
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


def test_a_million_invalid_examples_are_refused_quickly(client: Client) -> None:
    """Other clients are answered meanwhile."""
    content = '{"baseModel": "models/tiny", "tuningTask": {"trainingData": {"examples": {"examples": [%s]}}}}'
    for item in ('{"x":1}', "{}"):
        with ThreadPoolExecutor(1) as threads:
            refused = threads.submit(post, client, "/tunedModels", content % ",".join([item] * 1_000_000))
            with Client(
                str(client.http.base_url).removesuffix("/v1beta/"), client.http.headers["x-goog-api-key"]
            ) as two:
                assert two.good("GET", "/models")
            assert refused.result().status_code == 400


def test_a_filter_has_a_limited_number_of_words(client: Client) -> None:
    """It also matches letters beyond ASCII regardless of their case."""
    assert "at most 20" in client.refused(400, "GET", "/tunedModels", filter="x " * 1_200)["message"]
    client.good("POST", "/tunedModels", body(epochCount=1) | {"displayName": "Übersetzer"}, tunedModelId="u")
    assert len(client.good("GET", "/tunedModels", filter="übersetzer")["tunedModels"]) == 1
    client.good("DELETE", "/tunedModels/u")


def test_concurrent_changes_of_one_id_are_never_a_server_error(client: Client) -> None:
    """Creates, grants and deletions: the first one succeeds, the others get the reason."""

    def hammer(number: int) -> set[int]:
        path = "/tunedModels/raced"
        calls = (
            ("POST", "/tunedModels?tunedModelId=raced", body(epochCount=1)),
            ("POST", f"{path}/permissions", {"granteeType": "EVERYONE", "role": "READER"}),
            ("DELETE", path, None),
        )
        method, target, payload = calls[number % 3]
        with Client(str(client.http.base_url).removesuffix("/v1beta/"), client.http.headers["x-goog-api-key"]) as own:
            return {own.http.request(method, target, json=payload).status_code for _ in range(40)}

    with ThreadPoolExecutor(6) as threads:
        statuses = set().union(*threads.map(hammer, range(6)))
    assert statuses <= {200, 404, 409}
    client.call("DELETE", "/tunedModels/raced")


def test_generation_defaults_of_zero_are_shown(client: Client) -> None:
    """temperature, topP and topK are optional in the proto, so that 0 differs from an absent value."""
    payload = body(epochCount=1) | {"temperature": 0.0, "topP": 0.0, "topK": 0}
    client.good("POST", "/tunedModels", payload, tunedModelId="zero")
    model = client.good("GET", "/tunedModels/zero")
    assert (model["temperature"], model["topP"], model["topK"]) == (0.0, 0.0, 0)
    client.good("PATCH", "/tunedModels/zero", {"displayName": "x", "temperature": 9}, updateMask="displayName")
    client.good("DELETE", "/tunedModels/zero")


def test_without_a_seed_answers_differ(client: Client) -> None:
    """Above temperature 0, as the API documents."""
    payload = prompt("1", temperature=2.0, maxOutputTokens=12)
    free = {str(client.good("POST", "/models/tiny:generateContent", payload)["candidates"]) for _ in range(4)}
    assert len(free) > 1


def test_a_deleted_source_is_kept_until_its_child_has_started(client: Client) -> None:
    """It is not found by any caller, but the queued child starts from its adapter."""
    client.tuned("source", epochCount=1)
    client.good("POST", "/tunedModels", body(epochCount=LONG), tunedModelId="blocker")
    payload = continuing("source", epochCount=1)
    client.good("POST", "/tunedModels", payload, tunedModelId="child")
    client.good("DELETE", "/tunedModels/source")
    client.refused(404, "GET", "/tunedModels/source")
    client.good("DELETE", "/tunedModels/blocker")
    assert client.finished("child")["state"] == "ACTIVE"
    client.good("DELETE", "/tunedModels/child")


class NotedAnswerer(Answerer):
    """Keeps the answers for which clients wait."""

    def __init__(self, models: Sequence[BaseModelRef], open_engine: Callable[[], LocalBackend]) -> None:
        super().__init__(models, open_engine)
        self.answers: list[Future[Answer]] = []

    def ask(
        self, model: BaseModelRef, prompts: Sequence[Prompt], on_part: Sequence[OnPart | None]
    ) -> list[Future[Answer]]:
        futures = super().ask(model, prompts, on_part)
        self.answers += futures
        return futures


@pytest.fixture
def answers(troubled: RunningService) -> list[Future[Answer]]:
    """The answers for which clients of the troubled service wait, from now on."""
    answerer = troubled.service.answerer
    assert isinstance(answerer, NotedAnswerer)
    answerer.answers.clear()
    return answerer.answers


def test_queued_prompts_of_clients_that_hang_up_are_dropped(
    troubled: RunningService, answers: list[Future[Answer]]
) -> None:
    """They are removed from the queue before an engine has them; other clients get their answers."""
    answerer, base = troubled.service.answerer, troubled.service.library.catalogue.offered["tiny"].model
    # Each allows more tokens than the one before, so it is a batch of its own: the engine is busy for seconds.
    options = [GenerateOptions(most, temperature=2.0, seed=3) for most in range(80, 100)]
    blockers = answerer.ask(base, [Prompt("1", each) for each in options], [None] * len(options))
    answers.clear()
    content = json.dumps(prompt("1", maxOutputTokens=105)).encode()
    head = (
        f"POST /v1beta/models/tiny:generateContent HTTP/1.1\r\nHost: localhost\r\nx-goog-api-key: {troubled.key.secret}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    port = int(troubled.address.rpartition(":")[2])
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
    for raw in waiting:
        raw.sendall(head.encode() + content)
    wait_until(lambda: len(answers) == 10, "their prompts are queued")
    for raw in waiting:
        raw.close()
    wait_until(lambda: all(answer.done() for answer in answers), "their prompts are gone")
    assert all(answer.cancelled() for answer in answers)
    for blocker in blockers:
        answerer.leave(base, blocker)
    with Client(troubled.address, troubled.key.secret) as client:
        assert client.good("POST", "/models/tiny:generateContent", prompt("1", maxOutputTokens=2))


def test_unknown_http_methods_share_one_metric(running: RunningService) -> None:
    """Otherwise any caller could fill the memory with series."""
    for number in range(3):
        httpx.request(f"ABC{number}", f"{running.address}/healthz", trust_env=False, timeout=60)
    text = httpx.get(f"{running.address}/metrics", trust_env=False, timeout=60).text
    assert "ABC" not in text
    assert 'method="other"' in text


def test_nearly_correct_paths_are_not_found(client: Client) -> None:
    """No redirect, which would lose the key, and no verb of another resource."""
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
    own = Settings(folder, settings.models, settings.cache, device="cpu", threads=1)
    with RunningService(own, answerer=NotedAnswerer) as running:
        yield running


def test_only_its_owner_can_read_the_state_folder(running: RunningService) -> None:
    """It contains training data."""
    assert running.state.stat().st_mode & 0o077 == 0


def test_an_unreadable_key_file_is_an_error_in_the_envelope(troubled: RunningService) -> None:
    """The error names no path; once the file is repaired, its keys work again."""
    with Client(troubled.address, troubled.key.secret) as client:
        file = troubled.service.keys.path
        right = file.read_text()
        for wrong in ("{", '{"keys": [{"id": 1}]}', right.replace('"owner"', '"owned"')):
            file.write_text(wrong)
            error = client.refused(503, "GET", "/models")
            assert str(file) not in error["message"]
        file.write_text(right)
        assert client.good("GET", "/models")


def test_the_queue_continues_after_the_database_could_not_be_written(
    troubled: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    """The running job ends with its whole curve, and later jobs are tuned."""
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
    """Its queued jobs wait, models tuned from it answer with the reason, and nothing new starts from them."""
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
        payload = continuing("tuned")
        assert "not offered any more" in client.refused(400, "POST", "/tunedModels", payload)["message"]
    with RunningService(both) as running, Client(running.address, running.key.secret) as client:
        assert client.finished("waits")["state"] == "ACTIVE"


def test_queued_prompts_are_refused_at_a_shutdown(own: Settings) -> None:
    """503 in the envelope, and the service ends in an orderly way."""
    with RunningService(own) as running, ThreadPoolExecutor(30) as threads:
        payload = prompt("1", temperature=1.0, maxOutputTokens=100)
        is_answering = threading.Event()

        def ask_until_refused(_number: int) -> tuple[int, Any]:
            with Client(running.address, running.key.secret) as client:
                while (response := client.call("POST", "/models/tiny:generateContent", payload)).status_code == 200:
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
    """Also one that sends half a line, before its first request or after one."""
    with RunningService(own, connection=Hasty) as running:
        port = int(running.address.rpartition(":")[2])
        for said in (b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /he"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                raw.sendall(said)
                received = b""
                while chunk := raw.recv(1000):
                    received += chunk
            assert received.count(b"HTTP/1.1 200 OK") == said.count(b"HTTP/1.1\r\n")


def test_starting_from_a_model_requires_to_be_its_reader(client: Client, running: RunningService) -> None:
    """A model that the caller may not see is not found."""
    client.tuned("private", epochCount=1)
    key = running.service.keys.add("other@localhost", [TUNING_SCOPE])
    with Client(running.address, key.secret) as other:
        payload = continuing("private", ROWS[:1])
        other.refused(404, "POST", "/tunedModels", payload)
    running.service.keys.revoke(key.id)
    client.good("DELETE", "/tunedModels/private")


@pytest.mark.parametrize(
    ("path", "payload"),
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
    troubled: RunningService, answers: list[Future[Answer]], path: str, payload: dict[str, Any]
) -> None:
    """Counted at the engine, so that it is free for others at once, and not only when the longest answer is done."""
    headers = {"authorization": f"Bearer {troubled.key.secret}"}
    for _ in range(20):  # some end before their client hangs up
        with httpx.stream(
            "POST", troubled.address + path, json=payload, headers=headers, trust_env=False, timeout=60
        ) as response:
            next(response.iter_lines())
    tokens = [answer.result().tokens for answer in answers]
    assert len(tokens) == 20
    assert statistics.median(tokens) < 90  # without a hang-up, two of three take all 108 that there is room for
