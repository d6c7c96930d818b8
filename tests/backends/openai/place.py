"""A scripted service of OpenAI's API, and the backend that is opened there."""

from __future__ import annotations

from typing import Any

from tests.engine.tiny_model import HELD_OUT, request_of
from tests.rigs.openai_service import OpenAIService
from tunerun.backends.openai import OpenAIBackend, OpenAISection
from tunerun.job import (
    BaseModelRef,
    JobStatus,
    TuningRequest,
)

MODEL = BaseModelRef(name="smollm2-135m", source="smollm2-135m")
KEY = "planted-key-0123456789"
JOBS = "/v1/fine_tuning/jobs"


class OpenAIPlace:
    """A scripted service."""

    missing_model = BaseModelRef(name="missing-model", source="missing-model")

    def __init__(self, service: OpenAIService) -> None:
        self.service = service

    def open(self, **section: Any) -> OpenAIBackend:
        return OpenAIBackend(OpenAISection(kind="openai", **{"base_url": self.service.base_url, **section}))

    def request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, validation=HELD_OUT, **MULTIPLIED)

    def long_request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, epoch_count=1_000_000, **MULTIPLIED)


MULTIPLIED: dict[str, Any] = {"learning_rate": None, "learning_rate_multiplier": 10.0}


def ended(backend: OpenAIBackend, request: TuningRequest) -> JobStatus:
    ref = backend.submit(request)
    for _ in range(100):
        status = backend.poll([ref])[ref]
        if status.state.is_finished:
            return status
    raise AssertionError("the job does not end")
