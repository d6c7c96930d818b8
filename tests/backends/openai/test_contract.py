"""The contract of backends, at a scripted service over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.openai.place import KEY, OpenAIPlace
from tests.rigs.openai_service import OpenAIService, Script
from tunerun.testing.backend_contract import BackendContract


class TestContract(BackendContract):
    """The backend keeps the contract at a service that takes a few steps at a time."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[OpenAIPlace]:
        with OpenAIService(Script(steps_per_look=3, key=KEY)) as service:
            yield OpenAIPlace(service)
