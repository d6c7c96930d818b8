"""What the record costs a run, at the size the issue names: the same run in turns, with and without it."""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

from tunerun import schema
from tunerun.backends.base import Backend
from tunerun.compose import load
from tunerun.ledger import FILE_NAME, Ledger
from tunerun.planning import plan
from tunerun.runner import run as run_plan
from tunerun.testing.scripted import ScriptedBackend, ScriptedService
from tunerun.tracking import open_tracker
from tunerun.tracking.image import RECORD
from tunerun.tracking.summary import Summary

ROWS = 10_000
WORDS = 4_600
"""Of a row: 30,000 bytes, 300 MB together."""

VOCABULARY = 20_000
TRIALS_PER_AXIS = 10
LABELS = 77
ROUNDS = 2
_WITH, _WITHOUT = "with", "without"


@dataclass(frozen=True)
class Measured:
    """One run as a process: seconds of wall and CPU, memory at its peak, bytes of the record's files by name."""

    seconds: float
    cpu: float
    peak_mb: float
    files: dict[str, int]
    others_mb: float


def run() -> Iterator[str]:
    """Plan and run the sweep on a scripted backend with MLflow, each time as a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        rows = _written(Path(name) / "rows.jsonl")
        trials = TRIALS_PER_AXIS**2
        yield (
            f"the record of {trials} trials x {ROWS:,} examples ({rows.stat().st_size / 1e6:.0f} MB): plan and run on a "
            f"scripted backend with MLflow, {ROUNDS} rounds in turns (goal 5 %)"
        )
        found: dict[str, list[Measured]] = {_WITH: [], _WITHOUT: []}
        for number in range(ROUNDS):
            for kind in found:
                folder = Path(name) / f"{kind}-{number}"
                found[kind].append(_measured(kind, rows, folder))
        for unit, title in (("seconds", "wall"), ("cpu", "CPU")):
            ours, bare = (statistics.median(getattr(each, unit) for each in found[kind]) for kind in (_WITH, _WITHOUT))
            yield f"  {title}: {ours:.1f} s with it, {bare:.1f} s without: {(ours / bare - 1) * 100:+.1f} %"
        ours, bare = (max(each.peak_mb for each in found[kind]) for kind in (_WITH, _WITHOUT))
        files = found[_WITH][0].files
        sets = [name for name in files if name.startswith("examples/")]
        yield f"  memory at its peak: {ours:,.0f} MB with it, {bare:,.0f} MB without"
        yield (
            f"  stored: {sum(files.values()) / 1e6:.1f} MB in {len(files)} files, {len(sets)} sets of examples once each; "
            f"all artifacts of all {trials} trials: {found[_WITH][0].others_mb:.1f} MB"
        )


def _written(file: Path) -> Path:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(VOCABULARY)]
    with file.open("w", encoding="utf-8") as out:
        for number in range(ROWS):
            text = " ".join(draw.choices(words, k=WORDS))
            out.write(json.dumps({"text_input": text, "output": f"label_{number % LABELS}"}) + "\n")
    return file


def _measured(kind: str, rows: Path, folder: Path) -> Measured:
    folder.mkdir()
    command = [sys.executable, "-m", "tests.benchmarks.record", kind, str(rows), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


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

    def opened(_section: schema.Backend, _runs: Path, _cache: Path) -> Backend:
        return ScriptedBackend(service)

    started = time.perf_counter()
    experiment = load(_overrides(rows, folder))
    made = plan(experiment)
    run_plan(made, progress=None, open_backend=opened, poll_interval_s=0)
    tracker = open_tracker(experiment.tracking, folder / "runs")
    assert tracker is not None
    while tracker.sync().problem is not None:  # a run waits half a minute for MLflow, and its thread goes on
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
        seconds=seconds,
        cpu=used.ru_utime + used.ru_stime,
        peak_mb=used.ru_maxrss / (1024 if sys.platform == "darwin" else 1) / 1000,
        files={"/".join(file.parts[at + 1 :]): sizes[file] for file, at in records.items()},
        others_mb=sum(size for file, size in sizes.items() if file not in records) / 1e6,
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        kind, rows, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
        with patch.object(Summary, "_record", return_value={}) if kind == _WITHOUT else nullcontext():
            sys.stdout.write(json.dumps(asdict(_one(rows, folder))) + "\n")
    else:
        for line in run():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
