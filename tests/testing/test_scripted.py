"""The scripted backend keeps the contract of every backend."""

from __future__ import annotations

import pytest

from tests.engine.tiny_model import HELD_OUT, request_of
from tunerun.job import BaseModelRef, TuningRequest
from tunerun.testing.backend_contract import BackendContract, BackendPlace
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

MODEL = BaseModelRef(name="small", source="models/small")


class ScriptedPlace:
    """A scripted service that advances each job by three steps with each poll."""

    missing_model = BaseModelRef(name="missing-model", source="models/missing-model")

    def __init__(self) -> None:
        self.service = ScriptedService(steps_per_poll=3, missing_models=["missing-model", "another-missing-model"])

    def open(self) -> ScriptedBackend:
        return ScriptedBackend(self.service)

    def request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, validation=HELD_OUT)

    def long_request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, epoch_count=1_000_000)


class TestContract(BackendContract):
    """The backend keeps the contract."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> BackendPlace:
        return ScriptedPlace()
