"""The actor of a Ray node, without Ray."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tunerun.engine import messages
from tunerun.engine.settings import EngineSettings
from tunerun.job import BaseModelRef
from tunerun.workers.engine_actor import Attached, EngineActor
from tunerun.workers.node import NodeSettings

PREPARE = messages.command_line(messages.Prepare(BaseModelRef("missing", "missing")))


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_engines: None) -> Path:
    """The temporary directory of the node."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    return NodeSettings(str(tmp_path / "cache"), EngineSettings(device="cpu", threads=1))


def engines() -> set[psutil.Process]:
    """Return the engines of this process; earlier tests may have left some open."""
    return {each for each in psutil.Process().children() if "tunerun.engine" in each.cmdline()}


@pytest.fixture
def actor(settings: NodeSettings) -> Iterator[EngineActor]:
    actor = EngineActor(settings, "first")
    yield actor
    actor.end()


def test_an_unused_actor_ends(node: Path, settings: NodeSettings) -> None:
    """It ends its engine, removes its folder and leaves the cluster."""
    has_left, before = threading.Event(), engines()
    EngineActor(settings, "killed", unused_s=0.1, leave=has_left.set)
    assert has_left.wait(60)
    assert list(node.iterdir()) == []
    assert engines() <= before


def test_the_next_program_gets_the_unread_entries(actor: EngineActor) -> None:
    """Commands of the earlier program are ignored from then on; entries that were read are not repeated."""
    actor.command("first", 1, PREPARE)
    assert actor.entries("first", 0)[0].number == 1
    assert actor.attach("second") == Attached(after=0, commands=1, calls=1, jobs=frozenset())
    actor.command("first", 2, PREPARE)
    assert actor.entries("first", 0) == []
    read = 0
    while read < 2:
        read += len(actor.entries("second", read))
    actor.command("second", 2, PREPARE)
    assert actor.entries("second", read)[0].number == 3
    assert actor.attach("third") == Attached(after=2, commands=2, calls=1, jobs=frozenset())


@pytest.mark.process
def test_an_engine_that_hangs_is_ended(settings: NodeSettings, node: Path) -> None:
    """It ends within seconds, and its folder is removed."""
    before = engines()
    actor = EngineActor(settings, "first")
    (engine,) = engines() - before
    os.kill(engine.pid, signal.SIGSTOP)
    actor.end()
    assert not engine.is_running()
    assert list(node.iterdir()) == []
