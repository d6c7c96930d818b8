"""Engines as actors on a Ray cluster of two nodes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.workers.cluster import TwoNodes, two_nodes
from tests.workers.sweeps import Outcome, found, outcomes, sweep
from tunerun.comparison.results import TrialResult
from tunerun.errors import InputError
from tunerun.job import JobState, Snapshot
from tunerun.ledger import JobRecord, Ledger
from tunerun.planning import Plan, Trial
from tunerun.runner import run
from tunerun.runner.progress import Progress
from tunerun.workers.ray import NAMESPACE, RayWorkers, room

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    """One cluster for all tests; the last test loses a node."""
    with two_nodes() as nodes:
        yield nodes


def workers(nodes: TwoNodes, *more: str) -> list[str]:
    return ["backend.workers.kind=ray", f"backend.workers.address='{nodes.address}'", *more]


def actors() -> list[Any]:
    """Return tunerun's actors on the cluster."""
    from ray.util import list_named_actors

    return [each for each in list_named_actors(all_namespaces=True) if each["namespace"] == NAMESPACE]


def jobs(plan: Plan) -> list[JobRecord]:
    with Ledger(plan.ledger_path, read_only=True) as ledger:
        found = [ledger.job(trial.key) for trial in plan.trials]
    return [job for job in found if job is not None]


class Notes(Progress):
    """Records the notes of the runner."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class CancelsTheLong(Notes):
    """Requests the cancellation of the second trial once the first one has ended."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def finished(self, trial: Trial, _result: TrialResult) -> None:
        if trial.number == 0:
            with Ledger(self._plan.ledger_path) as ledger:
                ledger.request_cancel(self._plan.sweep, [1])


def test_jobs_of_a_killed_runner_continue(
    tmp_path: Path, tiny_folder: Path, nodes: TwoNodes, alone: Mapping[str, Outcome]
) -> None:
    """The next runner finds them: the same jobs, no step twice, the same bits; a cancelled one frees its node."""
    options = workers(nodes, "hyperparameters.learning_rate=0.01", "seed=0", "hyperparameters.epoch_count=4,50000")
    runner = [sys.executable, "-m", "tests.workers.killed_runner", str(tmp_path / "ray"), str(tiny_folder), *options]
    assert subprocess.run(runner, cwd=REPOSITORY, check=False).returncode == -signal.SIGKILL
    plan = sweep(tmp_path / "ray", tiny_folder, *options)
    before = jobs(plan)
    assert [job.state for job in before] == [JobState.RUNNING] * 2
    killed_at = time.time()
    progress = CancelsTheLong(plan)
    result = run(plan, progress=progress)
    assert [trial.state for trial in result.verdict.trials] == [JobState.SUCCEEDED, JobState.CANCELLED]
    assert progress.notes == []
    assert [(job.id, job.ref) for job in jobs(plan)] == [(job.id, job.ref) for job in before]
    with Ledger(plan.ledger_path, read_only=True) as ledger:
        first, *_ = ledger.snapshots(before[1].id)
    assert (first.step, first.compute_time < killed_at) == (1, True)
    assert found(plan) == {"0.01 0": alone["0.01 0"]}
    assert actors() == []
    assert list((tmp_path / "ray" / "runs" / "workers" / "ray").iterdir()) == []


class LosesANode(Notes):
    """Kills a node once both workers train."""

    def __init__(self, nodes: TwoNodes) -> None:
        super().__init__()
        self._nodes = nodes
        self._trained: set[int] = set()

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        if snapshot.step < trial.steps and trial.number not in self._trained:
            self._trained.add(trial.number)
            if len(self._trained) == 2:
                self._nodes.lose_one()


def test_a_sweep_that_loses_a_node_has_the_results_of_one_machine(
    tmp_path: Path, tiny_folder: Path, nodes: TwoNodes, alone: Mapping[str, Outcome], capfd: pytest.CaptureFixture[str]
) -> None:
    """The trial of the lost node is submitted again; adapters, losses and answers have the same bits."""
    section = RayWorkers(kind="ray", address=nodes.address, gpus_per_worker=1)
    with pytest.raises(InputError, match="has 2 CPU cores and 0 GPUs, a worker asks for 1 and 1; lower"):
        room(section)
    progress = LosesANode(nodes)
    assert outcomes(tmp_path / "ray", tiny_folder, *workers(nodes), progress=progress) == alone
    assert "the worker's node or its actor is lost" in progress.notes[0]
    assert all(note.endswith("submitting it again") for note in progress.notes)
    assert "raylet" not in "".join(capfd.readouterr())
    assert "raylet" in (tmp_path / "ray" / "runs" / "logs" / "ray.log").read_text()
