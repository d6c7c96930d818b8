"""The cURL commands and the Python of docs/serve.md, sent as the page prints them."""

from __future__ import annotations

import json
from itertools import pairwise

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.rigs.running_service import RunningService
from tests.test_docs import blocks, commands
from tunerun.testing.waiting import wait_until


def sent(words: tuple[str, ...], running: RunningService) -> httpx.Response:
    """Send what a cURL command says, to another address, with another key and base model."""
    options: dict[str, list[str]] = {}
    (url,) = [word for word in words if word.startswith("http://")]
    for option, value in pairwise(words):
        if option in ("-X", "-H", "-d"):
            options.setdefault(option, []).append(value)
    headers = dict(header.split(": ", 1) for header in options["-H"])
    headers["x-goog-api-key"] = running.key.secret
    (body,) = options.get("-d", [None])
    return httpx.request(
        options.get("-X", ["GET"])[0],
        url.replace("http://127.0.0.1:8000", running.address),
        headers=headers,
        content=body and body.replace("smollm2-135m", "tiny"),
        timeout=60,
    )


def test_the_curl_commands_tune_and_ask(running: RunningService) -> None:
    """A tuned model is created, shown until it is active, and answers."""
    create, get, generate = (c.words[1:] for c in commands() if c.page == "docs/serve.md" and c.words[0] == "curl")
    assert sent(create, running).json()["metadata"]["tunedModel"] == "tunedModels/by-curl"
    try:
        wait_until(lambda: bool(sent(get, running).json()["state"] == "ACTIVE"), "it is tuned")
        answer = sent(generate, running)
        assert answer.status_code == 200, answer.text
        assert json.loads(answer.text)["candidates"]
    finally:
        delete("by-curl", running)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_the_program_for_googles_client_runs(
    running: RunningService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of the page tunes on the guide's examples and prints an answer."""
    (program,) = [text for page, text in blocks("python") if page == "docs/serve.md" and "genai.configure(" in text]
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("GEMINI_API_KEY", running.key.secret)
    try:
        exec(program.replace("http://127.0.0.1:8000", running.address).replace("smollm2-135m", "tiny"), {})  # noqa: S102
        assert capsys.readouterr().out.endswith("\n")
    finally:
        delete("next-number", running)


def delete(identifier: str, running: RunningService) -> None:
    """Leave the service as it was."""
    running.service.state.delete(identifier)
    running.service.tuner.look()
