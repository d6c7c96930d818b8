"""The backend `openai` and the service: the contract, and that every place gives an experiment the same results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.tiny_model import HELD_OUT, request_of
from tests.rigs.running_service import RunningService
from tunerun.backends.openai import OpenAIBackend, OpenAISection
from tunerun.job import BaseModelRef, TuningRequest
from tunerun.service.app import Settings
from tunerun.testing.backend_contract import BackendContract

MODEL = BaseModelRef(name="tiny", source="tiny")
MULTIPLIED: dict[str, Any] = {"learning_rate": None, "learning_rate_multiplier": 10.0}


class ServedPlace:
    """A service with the tiny base model."""

    missing_model = BaseModelRef(name="missing-model", source="missing-model")

    def __init__(self, running: RunningService) -> None:
        self._running = running

    def open(self) -> OpenAIBackend:
        return OpenAIBackend(OpenAISection(kind="openai", base_url=f"{self._running.address}/v1", max_in_flight=4))

    def request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, validation=HELD_OUT, **MULTIPLIED)

    def long_request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, epoch_count=1_000_000, **MULTIPLIED)


@pytest.fixture(scope="class")
def serving(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    own = Settings(tmp_path_factory.mktemp("own") / "state", settings.models, settings.cache, device="cpu", threads=1)
    with RunningService(own) as serving, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", serving.key.secret)
        yield serving


class TestContract(BackendContract):
    """The backend keeps the contract with a service that really tunes."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, serving: RunningService) -> ServedPlace:
        return ServedPlace(serving)
