"""Engines as actors on a Ray cluster of two nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.workers.cluster import TwoNodes, two_nodes
from tests.workers.sweeps import Outcome, outcomes
from tunerun.errors import InputError
from tunerun.job import Snapshot
from tunerun.planning import Trial
from tunerun.runner.progress import Progress
from tunerun.workers.ray import RayWorkers, room


class LosesANode(Progress):
    """Kills a node once both workers train, and keeps what the runner says."""

    def __init__(self, nodes: TwoNodes) -> None:
        self._nodes = nodes
        self._trained: set[int] = set()
        self.notes: list[str] = []

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        if snapshot.step < trial.steps and trial.number not in self._trained:
            self._trained.add(trial.number)
            if len(self._trained) == 2:
                self._nodes.lose_one()

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_sweep_that_loses_a_node_ends_as_on_one_machine(
    tmp_path: Path, tiny_folder: Path, alone: Mapping[str, Outcome], capfd: pytest.CaptureFixture[str]
) -> None:
    """The trial of the lost node is submitted again; adapters, losses and answers have the same bits."""
    with two_nodes() as nodes:
        section = RayWorkers(kind="ray", address=nodes.address, gpus_per_worker=1)
        with pytest.raises(InputError, match="has 2 CPU cores and 0 GPUs, a worker asks for 1 and 1; lower"):
            room(section)
        progress = LosesANode(nodes)
        workers = ("backend.workers.kind=ray", f"backend.workers.address='{nodes.address}'")
        assert outcomes(tmp_path / "ray", tiny_folder, *workers, progress=progress) == alone
    assert "the worker's node or its actor is lost" in progress.notes[0]
    assert all(note.endswith("submitting it again") for note in progress.notes)
    assert "raylet" not in "".join(capfd.readouterr())
    assert "raylet" in (tmp_path / "ray" / "runs" / "logs" / "ray.log").read_text()
