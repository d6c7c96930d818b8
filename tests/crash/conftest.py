"""A service and a store for the matrix; the undisturbed run that all others are compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.rig import OPENAI, Rig
from tests.rigs.gemini_service import GeminiService
from tests.rigs.openai_service import OpenAIService
from tunerun.tracking.address import parse_address
from tunerun.tracking.store import Store

MEMORY = Path("/dev/shm")  # noqa: S108 - a mode 700 folder in it
"""A file system in memory. A process that is killed loses nothing that it has written to any file system, so a run
here survives or not as on a disk, and does not wait for the disk at each of its hundred commits (8 ms, measured)."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs, in memory where there is such a file system."""
    if not MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="tunerun-crash-", dir=MEMORY) as folder:
        yield Path(folder)


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
def tracked(place: Path, service: GeminiService, store: Path) -> Rig:
    """Two trials, shown in MLflow."""
    return Rig(place, service, store, "hyperparameters.epoch_count=2,3")


@pytest.fixture
def unmade(place: Path, service: GeminiService) -> Rig:
    """One trial, shown in a store that the run has to make."""
    return Rig(place, service, None, "hyperparameters.epoch_count=2", makes_store=True)


@pytest.fixture
def untracked(place: Path, service: GeminiService) -> Rig:
    """Four trials without a tracker."""
    return Rig(place, service, None, "hyperparameters.epoch_count=2,3,4,5")


@pytest.fixture(scope="session")
def openai_service() -> Iterator[OpenAIService]:
    with OpenAIService() as service:
        yield service


@pytest.fixture
def at_openai(place: Path, openai_service: OpenAIService) -> Rig:
    """Two trials without a tracker, at a service that speaks OpenAI's methods."""
    return Rig(place, openai_service, None, "hyperparameters.epoch_count=2,3", wire=OPENAI)
