"""OpenAI's own client against the service of all tests, and a file to train on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import DefaultHttpxClient, OpenAI

from tests.rigs.running_service import RunningService
from tests.service.openai.training import jsonl


@pytest.fixture
def sdk(running: RunningService) -> Iterator[OpenAI]:
    """The client in its strict mode, which validates each answer; what it has made is deleted at the end."""
    with client_of(running, running.key.secret) as client:
        yield client
        for row in running.service.library.newest(running.key, 1000):
            running.service.library.delete(running.key, row.id)
        for file in client.files.list():
            if file.purpose != "fine-tune-results":
                client.files.delete(file.id)


@pytest.fixture
def lenient(running: RunningService, sdk: OpenAI) -> Iterator[OpenAI]:
    """The client as users have it, which passes on states that it does not know."""
    with client_of(running, sdk.api_key, strict=False) as client:
        yield client


@pytest.fixture
def training_file(sdk: OpenAI) -> str:
    """The id of a file of seven rows."""
    return sdk.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune").id


def client_of(running: RunningService, secret: str, *, strict: bool = True, retries: int = 0) -> OpenAI:
    """A client of the service; one that does not look at the environment's proxies."""
    return OpenAI(
        base_url=f"{running.address}/v1",
        api_key=secret,
        http_client=DefaultHttpxClient(trust_env=False, timeout=60),
        max_retries=retries,
        _strict_response_validation=strict,
    )
