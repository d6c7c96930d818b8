"""What the record costs a run, at the size that was asked for: its own time beside the rest of the same run."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from tunerun import runner, schema
from tunerun.backends.base import Backend
from tunerun.compose import load
from tunerun.ledger import FILE_NAME, Ledger
from tunerun.planning import plan
from tunerun.planning.facts import facts_of
from tunerun.testing.scripted import ScriptedBackend, ScriptedService
from tunerun.tracking import open_tracker
from tunerun.tracking.marked_run import MarkedRun
from tunerun.tracking.run_projection import RECORD

T = TypeVar("T")

ROWS = 10_000
WORDS = 4_600
"""Of a row: 30,000 bytes, 300 MB together."""

VOCABULARY = 20_000
TRIALS_PER_AXIS = 10
LABELS = 77


@dataclass
class Spent:
    """Seconds of a run and of the calls in it that make the record, by the wall and of CPU.

    Both are of one run: two runs on a machine that does other things differ by more than the record costs.
    """

    wall: float = 0.0
    cpu: float = 0.0

    def timed(self, function: Callable[..., T]) -> Callable[..., T]:
        """The function, with its time added; of CPU also what other threads use meanwhile: rather too much."""

        def call(*arguments: object) -> T:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*arguments)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.process_time() - cpu

        return call


@dataclass(frozen=True)
class Measured:
    """A run as a process: its seconds, those of the record in it, its memory at its peak, and bytes that were stored."""

    wall: float
    cpu: float
    record_wall: float
    record_cpu: float
    peak_mb: float
    files: dict[str, int]
    others_mb: float


def run() -> Iterator[str]:
    """Plan and run the sweep on a scripted backend with MLflow, as a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        rows = _written(Path(name) / "rows.jsonl")
        command = [sys.executable, "-m", "tests.benchmarks.record", str(rows), name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = Measured(**json.loads(done.stdout.splitlines()[-1]))
        trials, sets = TRIALS_PER_AXIS**2, [file for file in found.files if file.startswith("examples/")]
        yield (
            f"the record of {trials} trials x {ROWS:,} examples ({rows.stat().st_size / 1e6:.0f} MB), in a run that is planned "
            f"and shown in MLflow and trains nothing (goal 5 %): {found.peak_mb:,.0f} MB of memory at the peak"
        )
        for title, record, whole in (
            ("wall", found.record_wall, found.wall),
            ("CPU", found.record_cpu, found.cpu),
        ):
            yield f"  {title}: {record:.1f} s, the rest of the run {whole - record:.1f} s: {record / (whole - record):.1%}"
        yield (
            f"  stored: {sum(found.files.values()) / 1e6:.1f} MB in {len(found.files)} files, {len(sets)} sets of examples "
            f"once each; all other artifacts of the {trials} trials: {found.others_mb:.1f} MB"
        )


def _written(file: Path) -> Path:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(VOCABULARY)]
    with file.open("w", encoding="utf-8") as out:
        for number in range(ROWS):
            text = " ".join(draw.choices(words, k=WORDS))
            out.write(json.dumps({"text_input": text, "output": f"label_{number % LABELS}"}) + "\n")
    return file


def _overrides(rows: Path, folder: Path) -> list[str]:
    rates = ",".join(f"{(n + 1) * 1e-6:.6f}" for n in range(TRIALS_PER_AXIS))
    return [
        "name=bench",
        f"dataset.path={rows}",
        "dataset.validation.fraction=0.01",
        f"paths.runs={folder / 'runs'}",
        f"paths.cache={folder / 'cache'}",
        f"tracking.uri=sqlite:///{folder / 'mlflow.db'}",
        "hyperparameters.epoch_count=1",
        f"hyperparameters.learning_rate={rates}",
        f"seed={','.join(map(str, range(TRIALS_PER_AXIS)))}",
    ]


def _one(rows: Path, folder: Path) -> Measured:
    """One run, in this process."""
    service = ScriptedService(answers=lambda _model, _text: "label_0")

    def opened(_section: schema.BackendSection, _runs: Path, _cache: Path) -> Backend:
        return ScriptedBackend(service)

    record, started = Spent(), time.perf_counter()
    experiment = load(_overrides(rows, folder))
    made = plan(experiment)
    sending = record.timed(MarkedRun._send_large_files)
    with (
        patch("tunerun.runner.sweep_run.facts_of", record.timed(facts_of)),
        patch.object(MarkedRun, "_send_large_files", lambda run, projection: sending(run, projection)),
    ):
        runner.run(made, progress=None, open_backend=opened, poll_interval_s=0)
        tracker = open_tracker(experiment.tracking, folder / "runs")
        assert tracker is not None
        while tracker.sync().problem is not None:  # a run waits half a minute for MLflow, and its thread continues
            pass
    seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    with Ledger.open_read_only(folder / "runs" / FILE_NAME) as ledger:
        [sweep] = ledger.sweeps()
        assert all(progress.evaluated_at for progress in ledger.progress(sweep.id))
    sizes = {file: file.stat().st_size for file in (folder / "mlartifacts").rglob("*") if file.is_file()}
    records = {
        file: file.parts.index(RECORD, len(folder.parts)) for file in sizes if f"/artifacts/{RECORD}/" in str(file)
    }
    return Measured(
        wall=seconds,
        cpu=used.ru_utime + used.ru_stime,
        record_wall=record.wall,
        record_cpu=record.cpu,
        peak_mb=used.ru_maxrss / (1024 if sys.platform == "darwin" else 1) / 1000,
        files={"/".join(file.parts[at + 1 :]): sizes[file] for file, at in records.items()},
        others_mb=sum(size for file, size in sizes.items() if file not in records) / 1e6,
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(asdict(_one(Path(sys.argv[1]), Path(sys.argv[2])))) + "\n")
    else:
        for line in run():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
