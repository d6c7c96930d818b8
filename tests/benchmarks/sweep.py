"""What a trial costs when tuning costs nothing: the runner alone, and beside Hydra's own launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tunerun import schema
from tunerun.backends.base import Backend
from tunerun.compose import load
from tunerun.planning import Plan, plan
from tunerun.runner import run as run_plan
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

SIZES = (1_000, 10_000)
SIDE = 100
"""Values of the second axis; the first has as many as give the size."""

HYDRA_JOBS = 200
IN_FLIGHT = 100
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

HYDRA_TASK = """
import hydra

@hydra.main(version_base="1.3", config_path={path!r}, config_name="config")
def task(config):
    pass

task()
"""


def run() -> list[str]:
    """Time the runner at each size, resuming at the largest, and Hydra's basic launcher with an empty task."""
    lines = [
        "Sweeps of trials that train nothing (scripted backend, tracking off), expansion and planning included; goal 10 ms"
    ]
    per_trial = 0.0
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            service = ScriptedService()
            made, planning_s = _planned(Path(folder), size)
            before = _resident_bytes()
            start = time.perf_counter()
            _run(made, service)
            running_s = time.perf_counter() - start
            grown = _resident_bytes() - before
            assert len(service.submitted) == size
            per_trial = (planning_s + running_s) / size
            lines.append(
                f"  {size:6,} trials: {1000 * per_trial:6.2f} ms a trial ({planning_s:.1f} s to plan, {running_s:.1f} s to "
                f"run); memory grew by {grown / size / 1024:.1f} KiB a finished trial, the script's own record included"
            )
            if size == SIZES[-1]:
                lines.append(
                    f"  resuming it when all {size:,} are done: {_resumed_s(Path(folder), size):.2f} s, as a command"
                )
    hydra = _hydra_s(HYDRA_JOBS) / HYDRA_JOBS
    lines.append(
        f"  Hydra's basic launcher with an empty task, {HYDRA_JOBS} jobs: {1000 * hydra:.1f} ms a job; "
        f"ratio 1/{hydra / per_trial:.0f}"
    )
    return lines


def _overrides(folder: Path, size: int) -> list[str]:
    rows = folder / "rows.json"
    rows.write_text(json.dumps([{"text_input": str(n), "output": str(n + 1)} for n in range(4)]))
    rates = ",".join(f"{(n + 1) * 1e-6:.6f}" for n in range(size // SIDE))
    return [
        "name=bench",
        f"dataset.path={rows}",
        f"paths.runs={folder / 'runs'}",
        "tracking=none",
        "evaluation=none",
        "hyperparameters.epoch_count=1",
        f"hyperparameters.learning_rate={rates}",
        f"seed={','.join(map(str, range(SIDE)))}",
    ]


def _planned(folder: Path, size: int) -> tuple[Plan, float]:
    overrides = _overrides(folder, size)
    start = time.perf_counter()
    made = plan(load(overrides))
    return made, time.perf_counter() - start


def _run(made: Plan, service: ScriptedService) -> None:
    def opened(_section: schema.BackendSection, _runs: Path, _cache: Path) -> Backend:
        return ScriptedBackend(service, max_in_flight=IN_FLIGHT)

    run_plan(made, open_backend=opened, poll_interval_s=0)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def _resumed_s(folder: Path, size: int) -> float:
    command = [sys.executable, "-m", "tunerun", "run", *_overrides(folder, size)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"all {size:,} trials are done" in done.stderr
    return time.perf_counter() - start


def _hydra_s(jobs: int) -> float:
    """The same config, and an empty task, in a process of its own."""
    conf = Path(__file__).resolve().parents[2] / "conf"
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "task.py"
        script.write_text(HYDRA_TASK.format(path=str(conf)))
        values = ",".join(map(str, range(jobs)))
        command = [sys.executable, str(script), "-m", "experiment=next_number", f"seed={values}"]
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, cwd=folder)
        return time.perf_counter() - start
