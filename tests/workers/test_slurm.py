"""Engines in jobs of submitit, with its local executor instead of Slurm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.workers.sweeps import Outcome, outcomes, sweep
from tunerun.engine import tuned_model
from tunerun.job import JobState, Snapshot
from tunerun.ledger import Ledger
from tunerun.planning import Plan, Trial
from tunerun.runner import run
from tunerun.runner.progress import Progress
from tunerun.workers import owner_lock
from tunerun.workers.base import Place
from tunerun.workers.slurm import END_FILE, SlurmWorkers, open_worker, take_over

WORKERS = ("backend.workers.kind=slurm", "backend.workers.executor=local")


class LosesAJob(Progress):
    """Kills the first job and its engine during training, and records the notes of the runner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_done = False
        self.notes: list[str] = []

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        if not self._is_done and snapshot.step < trial.steps:
            self._is_done = True
            (submitted,) = self._folder.glob("workers/0-*/job/*_submitted.pkl")  # its name is the process id
            job = psutil.Process(int(submitted.name.partition("_")[0]))
            for process in [job, *job.children(recursive=True)]:
                process.kill()

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_sweep_that_loses_a_job_has_the_results_of_one_machine(
    tmp_path: Path, tiny_folder: Path, alone: Mapping[str, Outcome]
) -> None:
    """The trial of the lost job is submitted again; adapters, losses and answers have the same bits."""
    progress = LosesAJob(tmp_path / "slurm" / "runs")
    assert outcomes(tmp_path / "slurm", tiny_folder, *WORKERS, "backend.workers.count=2", progress=progress) == alone
    (lost,) = progress.notes
    assert "the job " in lost
    assert lost.endswith("submitting it again")
    assert list((tmp_path / "slurm" / "runs" / "workers").iterdir()) == []


class CancelsFirstTrial(Progress):
    """Requests the cancellation of the first trial during its training."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        if snapshot.step == 1:
            with Ledger(self._plan.ledger_path) as ledger:
                ledger.request_cancel(self._plan.sweep, [trial.number])


def test_a_cancelled_trial_frees_its_node(tmp_path: Path, tiny_folder: Path) -> None:
    """The engine is cancelled; no process and no folder of the job remains."""
    options = ("hyperparameters.learning_rate=0.01", "seed=0", "hyperparameters.epoch_count=50000")
    plan = sweep(tmp_path / "slurm", tiny_folder, *WORKERS, *options)
    result = run(plan, progress=CancelsFirstTrial(plan))
    assert [trial.state for trial in result.verdict.trials] == [JobState.CANCELLED]
    assert not any("submitit" in " ".join(process.cmdline()) for process in psutil.Process().children())
    assert list((tmp_path / "slurm" / "runs" / "workers").iterdir()) == []


def test_results_of_jobs_of_a_killed_runner_are_fetched(
    tmp_path: Path, alone_runs: Path, alone: Mapping[str, Outcome]
) -> None:
    """A complete tuned model is fetched, a damaged one is not; jobs of a running runner continue."""
    made = [folder for folder in sorted((alone_runs / "tuned_models").iterdir()) if (folder / "status.json").exists()]
    killed, living = tmp_path / "workers" / "0-killed", tmp_path / "workers" / "1-living"
    for folder in (killed, living):
        for source in made[:2]:
            shutil.copytree(source, folder / "tuned_models" / source.name)
    (killed / "tuned_models" / made[1].name / tuned_model.WEIGHTS_FILE).write_bytes(b"damaged")
    with owner_lock.take(living):
        take_over(SlurmWorkers(kind="slurm"), Place(tmp_path, tmp_path / "cache"))
    assert [folder.name for folder in (tmp_path / "tuned_models").iterdir()] == [made[0].name]
    home = tmp_path / "tuned_models" / made[0].name
    assert tuned_model.fault(home) is None
    assert tuned_model.read_finished(home) == tuned_model.read_finished(made[0])
    assert not killed.exists()
    assert living.exists()
    assert not (living / END_FILE).exists()


FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$FAKE_SLURM/calls"
case "$(basename "$0")" in
  sbatch) cp "$1" "$FAKE_SLURM/sbatch.sh"; echo "Submitted batch job 12" ;;
  sacct) printf 'JobID|State\\n12|PENDING\\n' ;;
esac
"""


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs with the names of Slurm's that record their arguments; a job never gets a node."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("srun", "sbatch", "sacct", "scancel"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


def test_options_of_the_section_reach_slurm(tmp_path: Path, fake_slurm: Path) -> None:
    """Each becomes an option of sbatch; a waiting job is cancelled at once, by this program or the next."""
    section = SlurmWorkers(
        kind="slurm",
        partition="gpu",
        time_minutes=90,
        gpus=1,
        cpus=8,
        memory_gb=48,
        parameters={"account": "mine", "constraint": "a100"},
    )
    place = Place(tmp_path / "runs", tmp_path / "cache")
    worker = open_worker(section, place, 0)
    lines = (fake_slurm / "sbatch.sh").read_text().splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options >= {
        *("job-name=tunerun", "partition=gpu", "time=90", "gpus-per-node=1", "cpus-per-task=8", "mem=48GB"),
        *("account=mine", "constraint=a100"),
    }
    worker.end()
    assert (fake_slurm / "calls").read_text().splitlines()[-1] == "scancel 12"
    assert list((tmp_path / "runs" / "workers").iterdir()) == []
    left = Path(shutil.copytree(fake_slurm, tmp_path / "runs" / "workers" / "0-left"))
    (left / "job").mkdir()
    (left / "job" / "13_submitted.pkl").touch()
    assert take_over(section, place) == ()
    assert (fake_slurm / "calls").read_text().splitlines()[-1] == "scancel 13"
    assert not left.exists()
