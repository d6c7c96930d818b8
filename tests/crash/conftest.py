"""A service and a store for the matrix; the undisturbed run that all others are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.openai_service import OpenAIService
from tests.crash.rig import OPENAI, Rig
from tunerun.testing.gemini_service import GeminiService
from tunerun.tracking.address import parse_address
from tunerun.tracking.store import Store


@pytest.fixture(scope="session")
def service() -> Iterator[GeminiService]:
    with GeminiService() as service:
        yield service


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs."""
    file = tmp_path_factory.mktemp("made") / "mlflow.db"
    Store(parse_address(f"sqlite:///{file}", file.parent)).experiments()
    return file


@pytest.fixture
def tracked(tmp_path: Path, service: GeminiService, store: Path) -> Rig:
    """Two trials, shown in MLflow."""
    return Rig(tmp_path, service, store, "hyperparameters.epoch_count=2,3")


@pytest.fixture
def unmade(tmp_path: Path, service: GeminiService) -> Rig:
    """One trial, shown in a store that the run has to make."""
    return Rig(tmp_path, service, None, "hyperparameters.epoch_count=2", makes_store=True)


@pytest.fixture
def untracked(tmp_path: Path, service: GeminiService) -> Rig:
    """Four trials without a tracker."""
    return Rig(tmp_path, service, None, "hyperparameters.epoch_count=2,3,4,5")


@pytest.fixture(scope="session")
def openai_service() -> Iterator[OpenAIService]:
    with OpenAIService() as service:
        yield service


@pytest.fixture
def at_openai(tmp_path: Path, openai_service: OpenAIService) -> Rig:
    """Two trials without a tracker, at a service that speaks OpenAI's methods."""
    return Rig(tmp_path, openai_service, None, "hyperparameters.epoch_count=2,3", wire=OPENAI)
