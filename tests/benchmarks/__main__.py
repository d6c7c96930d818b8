"""`make bench`: the project's figures, measured on this machine; ratios are of turns in one run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from hydra import compose
from omegaconf import OmegaConf

from tests.benchmarks import data, engine_speed, record, report, scale, service, sweep, tracking, verdict
from tunerun.compose import config_directories, load
from tunerun.compose.loader import CONFIG_NAME, Loader

POINTS = 1000
COMPOSED = 40
"""Full composes that are timed; each costs the same, so 1,000 of them are 25 times as much."""

REPEATS = 5


def command_lines() -> list[str]:
    """Time `tunerun --help` and `plan` of the demo as whole processes."""
    lines = []
    for arguments, goal in (["--help"], 0.5), (["plan", "experiment=next_number"], 1.5):
        seconds = [_seconds(lambda: _run(arguments)) for _ in range(REPEATS)]  # noqa: B023 - called at once
        lines.append(
            f"tunerun {' '.join(arguments)}: min {min(seconds):.2f} s, median {statistics.median(seconds):.2f} s "
            f"(goal {goal} s)"
        )
    return lines


def _run(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tunerun", *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def expansion_lines() -> list[str]:
    """Time the expansion of a thousand points against full composes of the same points, and compare the configs."""
    sweep = ["experiment=next_number", "hyperparameters.learning_rate=range(1,11)", "hyperparameters.epoch_count=5"]
    sweep.append(f"seed=range(0,{POINTS // 10})")
    # Once: a second load of the same files in this process would find what the first one composed.
    ours = _seconds(lambda: load(sweep))
    experiment = load(sweep)
    with Loader(config_directories()) as _:
        started = time.perf_counter()
        for point in experiment.points[:: POINTS // COMPOSED]:
            overrides = [f"{key}={value}" for key, value in point.overrides.items()]
            full = OmegaConf.to_container(
                compose(CONFIG_NAME, overrides=[sweep[0], sweep[2], *overrides]), resolve=True
            )
            assert isinstance(full, dict)
            assert point.config.seed == full["seed"]
            for name in ("hyperparameters", "template"):
                section = getattr(point.config, name)
                assert section == type(section).model_validate(full[name])
        theirs = (time.perf_counter() - started) / COMPOSED * POINTS
    assert len(experiment.points) == POINTS
    what = f"expanding and validating {POINTS} points: {ours:.2f} s; {POINTS} full Hydra composes: {theirs:.1f} s"
    return [f"{what} (from {COMPOSED}); ratio 1/{theirs / ours:.0f} (goal 1/20)"]


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    """Print all figures."""
    rooms = (sweep, data, engine_speed, scale, report, tracking, record, service, verdict)
    for part in (command_lines, expansion_lines, *(room.run for room in rooms)):
        for line in part():
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
