"""OpenAI's own client of the shared service, and a training file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import DefaultHttpxClient, OpenAI

from tests.rigs.running_service import RunningService
from tests.service.openai.training import jsonl


@pytest.fixture
def sdk(running: RunningService) -> Iterator[OpenAI]:
    """The client in its strict mode, which validates each response; all that it creates is deleted at the end."""
    with client_of(running, running.key.secret) as client:
        yield client
        for row in running.service.library.newest(running.key, 1000):
            running.service.library.delete(running.key, row.id)
        for file in client.files.list():
            if file.purpose != "fine-tune-results":
                client.files.delete(file.id)


@pytest.fixture
def lenient(running: RunningService, sdk: OpenAI) -> Iterator[OpenAI]:
    """The client in its default mode, which accepts unknown states."""
    with client_of(running, sdk.api_key, strict=False) as client:
        yield client


@pytest.fixture
def training_file(sdk: OpenAI) -> str:
    """The id of a file with seven rows."""
    return sdk.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune").id


def client_of(running: RunningService, secret: str, *, strict: bool = True, retries: int = 0) -> OpenAI:
    """Return a client of the service that ignores the environment's proxies."""
    return OpenAI(
        base_url=f"{running.address}/v1",
        api_key=secret,
        http_client=DefaultHttpxClient(trust_env=False, timeout=60),
        max_retries=retries,
        _strict_response_validation=strict,
    )
