"""The results of the sweep of `sweeps.py` in one process of this machine, computed once for all tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.engine import tiny_model
from tests.workers.sweeps import Outcome, outcomes


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def alone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="session")
def alone(alone_folder: Path, tiny_folder: Path) -> Mapping[str, Outcome]:
    return outcomes(alone_folder, tiny_folder)


@pytest.fixture(scope="session")
def alone_runs(alone_folder: Path, alone: Mapping[str, Outcome]) -> Path:
    return alone_folder / "runs"
