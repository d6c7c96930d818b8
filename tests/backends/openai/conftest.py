"""The scripted service, and the backend at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina

from tests.backends.openai.place import KEY, OpenAIPlace
from tests.rigs.openai_service import OpenAIService
from tunerun.backends.openai import OpenAIBackend


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        yield


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Retries do not wait."""
    with stamina.set_testing(True, attempts=4):
        yield


@pytest.fixture
def place() -> Iterator[OpenAIPlace]:
    with OpenAIService() as service:
        yield OpenAIPlace(service)


@pytest.fixture
def backend(place: OpenAIPlace) -> Iterator[OpenAIBackend]:
    with place.open() as backend:
        yield backend
