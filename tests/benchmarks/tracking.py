"""What the replay costs against the fewest calls that bare MLflow can do the same with."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from tests.tracking.sweeps import Lab, freeze
from tunerun.job import JobState, JobStatus, Snapshot
from tunerun.ledger import Ledger
from tunerun.tracking import Tracker
from tunerun.tracking.address import parse_address
from tunerun.tracking.store import Store

ROUNDS = 7
POINTS = 500
VARIED = 20
"""With tunerun's own params this makes 30."""


def run() -> list[str]:
    """Show one trial of 30 params and 500 points in a fresh SQLite store: our replay and bare MLflow, in turns."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            ours.append(_replay(Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            bare.append(_bare(Path(folder)))
    ratio = min(ours) / min(bare), statistics.median(ours) / statistics.median(bare)
    return [
        f"MLflow, one trial of 30 params and {POINTS} points, fresh SQLite store, {ROUNDS} rounds in turns",
        f"  tunerun's replay   min {min(ours) * 1000:6.0f} ms, median {statistics.median(ours) * 1000:6.0f} ms",
        f"  bare MlflowClient  min {min(bare) * 1000:6.0f} ms, median {statistics.median(bare) * 1000:6.0f} ms",
        f"  ratio              min {ratio[0]:6.2f}, median {ratio[1]:6.2f}",
    ]


def _replay(folder: Path) -> float:
    with Ledger(folder / "ledger.db") as ledger:
        lab = _running_trial(ledger)
        tracker = Tracker(ledger.path, f"sqlite:///{folder / 'mlflow.db'}")
        tracker.sync([])  # imports nothing and opens nothing
        Store(parse_address(tracker.uri, folder)).experiments()
        tracker._store.experiment("warm-up")
        start = time.perf_counter()
        report = tracker.sync([lab.sweep.id])
        seconds = time.perf_counter() - start
        assert report.problem is None
        assert report.points >= POINTS
        return seconds


def _running_trial(ledger: Ledger) -> Lab:
    point = {"hyperparameters.learning_rate": 0.001, **{f"axis_{n:02}": n for n in range(VARIED)}}
    lab = freeze(ledger, points=[point])
    job = lab.start(0)
    curve = tuple(Snapshot(n, 1 + n // 100, 2 / n, 1_760_000_000 + n) for n in range(1, POINTS + 1))
    ledger.record(job, JobStatus(JobState.RUNNING, curve))
    return lab


def _bare(folder: Path) -> float:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    client.create_experiment("warm-up", artifact_location=(folder / "mlartifacts").as_uri())
    start = time.perf_counter()
    experiment = client.create_experiment("next-number", artifact_location=(folder / "mlartifacts").as_uri())
    run_id = client.create_run(experiment, run_name="t0", tags={f"tag{n}": "x" for n in range(10)}).info.run_id
    client.log_batch(run_id, params=[Param(f"param_{n:02}", str(n)) for n in range(30)])
    client.log_batch(run_id, metrics=[Metric("train/mean_loss", 2 / n, 1_760_000_000 + n, n) for n in range(1, 501)])
    return time.perf_counter() - start
