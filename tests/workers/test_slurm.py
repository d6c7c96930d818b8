"""Engines in jobs of submitit, with its local executor in the place of Slurm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.workers.sweeps import Outcome, outcomes
from tunerun.job import Snapshot
from tunerun.planning import Trial
from tunerun.runner.progress import Progress

WORKERS = ("backend.workers.kind=slurm", "backend.workers.executor=local")


class LosesAJob(Progress):
    """Kills the first job with its engine in the middle of its training, and keeps what the runner says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_done = False
        self.notes: list[str] = []

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        if not self._is_done and snapshot.step < trial.steps:
            self._is_done = True
            (submitted,) = self._folder.glob("workers/0-*/job/*_submitted.pkl")  # submitit names it by the process
            job = psutil.Process(int(submitted.name.partition("_")[0]))
            for process in [job, *job.children(recursive=True)]:
                process.kill()

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_sweep_that_loses_a_job_ends_as_on_one_machine(
    tmp_path: Path, tiny_folder: Path, alone: Mapping[str, Outcome]
) -> None:
    """The trial of the lost job is submitted again; adapters, losses and answers have the same bits."""
    progress = LosesAJob(tmp_path / "slurm" / "runs")
    assert outcomes(tmp_path / "slurm", tiny_folder, *WORKERS, "backend.workers.count=2", progress=progress) == alone
    (lost,) = progress.notes
    assert "the job " in lost
    assert lost.endswith("submitting it again")
    assert list((tmp_path / "slurm" / "runs" / "workers").iterdir()) == []
