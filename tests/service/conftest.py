"""A running service with the tiny base model, shared by all tests that restore its state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import tiny_model
from tests.rigs.running_service import RunningService
from tests.service.client import Client
from tests.service.visitor import Visitor, visiting
from tunerun.job import BaseModelRef
from tunerun.service.app import Settings


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    folder = tiny_model.build(tmp_path_factory.mktemp("models") / "tiny")
    return BaseModelRef(name="tiny", source=str(folder), context_length=tiny_model.CONTEXT_TOKENS)


@pytest.fixture(scope="session")
def settings(tiny: BaseModelRef, engine_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("service") / "state"
    # One job at a time, so that a long one keeps others waiting; `test_packs` has jobs train together.
    return Settings(folder, [tiny], engine_cache, device="cpu", threads=1, packing="off")


@pytest.fixture(scope="session")
def running(settings: Settings) -> Iterator[RunningService]:
    with RunningService(settings) as running:
        yield running


@pytest.fixture
def client(running: RunningService) -> Iterator[Client]:
    """A client with the service's first key."""
    with Client(running.address, running.key.secret) as client:
        yield client


@pytest.fixture
def other(running: RunningService) -> Iterator[Client]:
    """A client of another user."""
    key = running.service.keys.add("other@localhost", running.key.scopes)
    with Client(running.address, key.secret) as client:
        yield client
    running.service.keys.revoke(key.id)


@pytest.fixture
def stranger(running: RunningService) -> Iterator[Visitor]:
    """A user with a key who has not signed in."""
    with visiting(running, "stranger@localhost") as visitor:
        yield visitor


@pytest.fixture
def visitor(running: RunningService) -> Iterator[Visitor]:
    """A user who is signed in, and whose library is empty."""
    with visiting(running, "visitor@localhost") as visitor:
        visitor.sign_in()
        yield visitor
