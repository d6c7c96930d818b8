"""What the replay costs against the fewest calls that bare MLflow can do the same with."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.tracking.sweeps import Lab, freeze
from tunerun.job import JobState, JobStatus, Snapshot
from tunerun.ledger import Ledger
from tunerun.tracking import Tracker
from tunerun.tracking.address import parse_address
from tunerun.tracking.marked_run import MarkedRun, tags_version
from tunerun.tracking.run_projection import FrozenSweep, SharedTrial
from tunerun.tracking.store import Store
from tunerun.tracking.trial import trial_projection

ROUNDS = 5
TRIALS = 8
POINTS = 500
MORE_POINTS = 1000
VARIED = 20
"""With tunerun's own params this makes 30."""


def run() -> list[str]:
    """Time our replay and bare MLflow in turns, each on a fresh SQLite store that is open already."""
    alone: list[tuple[float, float]] = []
    first: list[tuple[float, float]] = []
    later: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        ours, bare = _replayed(), _bare()
        alone.append((_logged_alone(), bare[0]))
        first.append((ours[0], bare[0]))
        later.append((ours[1], bare[1]))
    return [
        f"MLflow on a fresh SQLite store, {ROUNDS} rounds in turns: tunerun's replay against bare MlflowClient",
        *_lines(f"{TRIALS} trials of 30 params and {POINTS} points, the same on both sides (goal 1.5)", alone),
        *_lines(
            "the whole replay of these trials: also artifacts, datasets, descriptions and the sweep's summary", first
        ),
        *_lines(f"then {MORE_POINTS} points more of one trial, one log_batch", later),
    ]


def _lines(what: str, pairs: list[tuple[float, float]]) -> list[str]:
    ours, bare = [pair[0] * 1000 for pair in pairs], [pair[1] * 1000 for pair in pairs]
    return [
        f"  {what}",
        f"    ours  min {min(ours):6.0f} ms, median {statistics.median(ours):6.0f} ms",
        f"    bare  min {min(bare):6.0f} ms, median {statistics.median(bare):6.0f} ms",
        f"    ratio min {min(ours) / min(bare):6.2f}, median {statistics.median(ours) / statistics.median(bare):6.2f}",
    ]


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _replayed() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.db") as ledger:
        tracker = Tracker(ledger.path, f"sqlite:///{folder}/mlflow.db")
        warm_up = freeze(ledger, "warm-up", name="warm-up")
        tracker.sync([warm_up.sweep.id])  # opens the store
        lab = _running(ledger)
        first = _seconds(lambda: tracker.sync([lab.sweep.id]))
        job = ledger.job(lab.trials[0].key)
        assert job is not None
        ledger.record(job.id, JobStatus(JobState.RUNNING, _curve(POINTS + MORE_POINTS)))
        later = _seconds(lambda: tracker.sync([lab.sweep.id]))
        assert tracker.problem is None
        return first, later


def _logged_alone() -> float:
    """What is left of the replay when each run has its params, its points and its state alone."""
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.db") as ledger:
        store = Store(parse_address(f"sqlite:///{folder}/mlflow.db", Path(folder)))
        lab = _running(ledger)
        sweep = FrozenSweep(ledger, lab.sweep.id)
        experiment, progress = store.experiment("alone"), ledger.progress(sweep.id)

        def log_all() -> None:
            for trial in range(TRIALS):
                shared = SharedTrial([(sweep, sweep.by_number[trial])], progress[trial], is_interrupted=False)
                whole = trial_projection(ledger, shared)
                assert whole is not None
                projection = replace(whole, inputs=None, artifacts={}, model=None)
                run = store.create(experiment, projection)
                document = {"tags": tags_version(projection)}
                MarkedRun(ledger, store, "bench", experiment, run, projection.subject, document).update(projection)

        return _seconds(log_all)


def _running(ledger: Ledger) -> Lab:
    lab = freeze(ledger, points=[{f"axis_{n:02}": n + trial for n in range(VARIED)} for trial in range(TRIALS)])
    for trial in range(TRIALS):
        ledger.record(lab.start(trial), JobStatus(JobState.RUNNING, _curve(POINTS)))
    return lab


def _curve(steps: int) -> tuple[Snapshot, ...]:
    """One epoch that never ends, so that each step has one point."""
    return tuple(Snapshot(step, 1, 2 / step, 1_760_000_000 + step) for step in range(1, steps + 1))


def _bare() -> tuple[float, float]:
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        experiment = client.create_experiment("bare", artifact_location=Path(folder).as_uri())
        runs: list[str] = []
        first = _seconds(lambda: runs.extend(_bare_run(client, experiment, trial) for trial in range(TRIALS)))
        later = _seconds(lambda: client.log_batch(runs[0], metrics=_metrics(POINTS, POINTS + MORE_POINTS)))
        return first, later


def _bare_run(client: Any, experiment: str, trial: int) -> str:
    from mlflow.entities import Param

    tags = {f"tag{n}": "x" for n in range(14)}
    run_id: str = client.create_run(experiment, run_name=f"t{trial}", tags=tags).info.run_id
    client.log_batch(run_id, params=[Param(f"param_{n:02}", str(n)) for n in range(30)])
    client.log_batch(run_id, metrics=_metrics(0, POINTS))
    return run_id


def _metrics(after: int, upto: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric("train/mean_loss", 2 / n, 1_760_000_000_000 + n * 1000, n) for n in range(after + 1, upto + 1)]
