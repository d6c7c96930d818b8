"""Prompts to base models and tuned models: how they are batched, and what happens when an engine or a model fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.running_service import RunningService
from tests.service.client import Client, prompt
from tunerun.backends.local import LocalBackend
from tunerun.engine.settings import EngineSettings
from tunerun.errors import BackendError, BaseModelError, NotFoundError
from tunerun.generation import Answer, AnswerPart, GenerateOptions, Prompt
from tunerun.job import BaseModelRef
from tunerun.service.app import Settings
from tunerun.service.core.answerer import Answerer
from tunerun.testing.waiting import wait_until

LONG = GenerateOptions(max_output_tokens=100, temperature=2.0, seed=3)


@pytest.fixture
def opened(tmp_path: Path, engine_cache: Path) -> Callable[[], LocalBackend]:
    return lambda: LocalBackend(tmp_path, engine_cache, EngineSettings("cpu", 1))


@pytest.fixture
def answerer(tiny: BaseModelRef, opened: Callable[[], LocalBackend]) -> Iterator[Answerer]:
    answerer = Answerer([tiny], opened)
    yield answerer
    answerer.end()


def process_of(answerer: Answerer) -> int:
    (engine,) = answerer.engines.values()
    process = engine.engine_process_id
    assert process is not None
    return process


def ask(
    answerer: Answerer, model: BaseModelRef, prompt: Prompt, on_part: Callable[[AnswerPart], None] | None = None
) -> Future[Answer]:
    """Queue one prompt."""
    (answer,) = answerer.ask(model, [prompt], [on_part])
    return answer


def begun_with_the_first(answers: Sequence[Future[Answer]]) -> list[bool]:
    """Which of the answers had begun when the first of them was complete, so that they are of its batch.

    Empty until then. An engine answers one batch at a time, and a future runs from when its prompt is in a batch.
    """
    begun: list[bool] = []

    def note(_answer: Future[Answer]) -> None:
        if not begun:
            begun.extend(each.running() or each.done() for each in answers)

    for each in answers:
        each.add_done_callback(note)
    return begun


def test_base_models_are_loaded_before_the_first_prompt(answerer: Answerer, tiny: BaseModelRef) -> None:
    """Each is named before it is loaded, and its engine runs afterwards."""
    named: list[BaseModelRef] = []
    answerer.load(named.append)
    assert named == [tiny]
    assert process_of(answerer) > 0


def test_a_base_model_that_cannot_be_loaded_stops_the_start(opened: Callable[[], LocalBackend]) -> None:
    """The error comes at the start, not with the first prompt."""
    answerer = Answerer([BaseModelRef(name="none", source="./none")], opened)
    with pytest.raises(BaseModelError, match="cannot be found"):
        answerer.load(lambda _model: None)
    answerer.end()


def test_models_of_one_base_share_batches(settings: Settings, tmp_path: Path) -> None:
    """Prompts to several tuned models and their base model are answered in one batch, each as if alone."""
    own = replace(settings, state=tmp_path / "state")
    with RunningService(own) as running, Client(running.address, running.key.secret) as client:
        for number in range(3):
            client.tuned(f"m{number}", epochCount=10 * (number + 1), batchSize=7)
        paths = ["/models/tiny", *(f"/tunedModels/m{number}" for number in range(3))]
        payload = prompt("twenty two", maxOutputTokens=8)
        alone = [client.good("POST", f"{path}:generateContent", payload) for path in paths]
        adapters = [None, *(str(running.state / "tuned_models" / row.folder) for row in rows_of(running))]
        answerer = running.service.answerer
        blocker = ask(answerer, own.models[0], Prompt("1", LONG))
        wait_until(blocker.running, "the blocker is being answered")
        options = GenerateOptions(max_output_tokens=8)
        futures = [ask(answerer, own.models[0], Prompt("twenty two", options, adapter)) for adapter in adapters]
        begun = begun_with_the_first(futures)
        blocker.result()
        texts = [future.result().text for future in futures]
        assert texts == [one["candidates"][0]["content"]["parts"][0]["text"] for one in alone]
        assert begun == [True] * len(adapters)


def rows_of(running: RunningService) -> list[Any]:
    return [running.service.state.tuned_model(f"m{number}") for number in range(3)]


def test_no_prompt_waits_for_a_longer_one_that_came_later(answerer: Answerer, tiny: BaseModelRef) -> None:
    """A prompt joins the batch of the first one only if its token limit is not higher."""
    short, long = GenerateOptions(max_output_tokens=2), GenerateOptions(max_output_tokens=3)
    blocker = ask(answerer, tiny, Prompt("1", LONG))
    wait_until(blocker.running, "the blocker is being answered")
    futures = [ask(answerer, tiny, Prompt("1", options)) for options in (short, long, short)]
    begun = begun_with_the_first(futures)
    for future in (blocker, *futures):
        future.result()
    assert begun == [True, False, True]


def test_an_answer_does_not_wait_for_longer_ones_of_its_batch(answerer: Answerer, tiny: BaseModelRef) -> None:
    """Each answer is returned as soon as it is complete, in any order."""
    lengths = [100, 50, 2]
    options = [GenerateOptions(max_output_tokens=length, temperature=2.0, seed=3) for length in lengths]
    futures = answerer.ask(tiny, [Prompt("1", each) for each in options], [None] * 3)
    returned: list[Future[Answer]] = []
    for future in futures:
        future.add_done_callback(returned.append)
    assert [future.result().tokens for future in futures] == lengths
    assert returned == futures[::-1]


def test_an_engine_that_is_killed_while_it_answers(answerer: Answerer, tiny: BaseModelRef) -> None:
    """The next engine answers the prompts; one whose answer was partly sent fails with an error that says so."""
    answerer.load(lambda _model: None)
    parts: list[AnswerPart] = []
    streamed = ask(answerer, tiny, Prompt("1", LONG), parts.append)
    wait_until(lambda: bool(parts), "a part is sent")
    waiting = [ask(answerer, tiny, Prompt("1", replace(LONG, max_output_tokens=3))) for _ in range(3)]
    os.kill(process_of(answerer), signal.SIGKILL)
    with pytest.raises(BackendError, match="was killed"):
        streamed.result()
    assert all(isinstance(future.result(), Answer) for future in waiting)
    assert answerer.is_alive


def test_a_tuned_model_that_is_damaged_or_deleted_while_a_prompt_waits(settings: Settings, tmp_path: Path) -> None:
    """Damaged files are reported as damaged; a model that is deleted while its prompt waits is not found."""
    own = replace(settings, state=tmp_path / "state")
    with RunningService(own) as running, Client(running.address, running.key.secret) as client:
        client.tuned("damaged", epochCount=1)
        client.tuned("deleted", epochCount=1)
        (weights,) = (running.state / "tuned_models").glob("damaged-*/adapter_model.safetensors")
        weights.write_bytes(weights.read_bytes()[:100])
        for verb in ("generateContent", "streamGenerateContent"):
            error = client.refused(400, "POST", f"/tunedModels/damaged:{verb}", prompt("1"))
            assert error["status"] == "FAILED_PRECONDITION"
            assert "missing or damaged; delete it, and create it again" in error["message"]
            assert str(tmp_path) not in error["message"]
        row = running.service.state.tuned_model("deleted")
        assert row is not None
        adapter = str(running.service.tuner.folder_of(row.folder))
        client.good("DELETE", "/tunedModels/deleted")
        wait_until(lambda: not Path(adapter).exists(), "its folder is gone")
        with pytest.raises(NotFoundError, match="does not hold a tuned model"):
            ask(running.service.answerer, own.models[0], Prompt("1", LONG, adapter)).result()
        assert client.good("POST", "/models/tiny:generateContent", prompt("1", maxOutputTokens=2))
