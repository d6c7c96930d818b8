"""The record of the jobs of a worker that may outlive its program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.engine.tiny_model import request_of
from tunerun.engine import messages
from tunerun.job import BaseModelRef
from tunerun.workers.journal import TRAINS_FILE, Journal


def test_only_the_journal_of_a_killed_program_is_found(tmp_path: Path) -> None:
    """It has the commands that its worker has received; the last line may be incomplete."""
    train = messages.Train((messages.PackedJob("a.1", request_of(BaseModelRef("tiny", "tiny"))),), "home")
    killed, lives = Journal.begin(tmp_path, "engine-1-a"), Journal.begin(tmp_path, "engine-1-b")
    Journal.begin(tmp_path, "engine-2-c")
    killed.note(1, train)
    killed.note(3, replace(train, most=1))
    assert list(Journal.left(tmp_path, "engine-1-")) == []
    killed._lock.release()  # as the kernel does when a process ends
    (found,) = Journal.left(tmp_path, "engine-1-")
    assert found.name == "engine-1-a"
    with (tmp_path / "engine-1-a" / TRAINS_FILE).open("ab") as file:
        file.write(b'4 {"do": "tr')
    assert list(found.trains(up_to=2)) == [train]
    assert [each.most for each in found.trains(up_to=9)] == [None, 1]
    found.remove()
    lives.remove()
    assert [folder.name for folder in tmp_path.iterdir()] == ["engine-2-c"]
