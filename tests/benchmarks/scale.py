"""How long large files take to plan, and how much memory, beside pandas reading the same file in the same run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VOCABULARY = 20_000
LABELS = 77
NARROW_WORDS, WIDE_WORDS = 12, 180
"""Words of a row: banking77's questions have a dozen; 180 make 1,200 bytes."""

_PANDAS = "import pandas, sys; pandas.read_csv(sys.argv[1])"
# Linux counts the memory of the process that forks into the peak of what it starts, and this process holds a base model
# by now; so a small one starts the command.
_LAUNCHER = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
    "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
)
_SIGTERM_AFTER_S = 5.0


@dataclass(frozen=True)
class Case:
    """A file to plan, and the goals."""

    rows: int
    words: int
    seconds: float
    megabytes: int | None = None


CASES = (Case(100_000, NARROW_WORDS, 10), Case(20_000, WIDE_WORDS, 5, 500), Case(1_000_000, NARROW_WORDS, 90, 2000))


def run() -> Iterator[str]:
    """Plan each file as a command, with a hundredth held out; the base model's tokenizer counts if it is prepared."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in CASES:
            file = _written(folder / f"{case.rows}.csv", case)
            wall, cpu, peak = _measured([sys.executable, "-m", "tunerun", *_plan(file)], folder)
            pandas, _, pandas_peak = _measured([sys.executable, "-c", _PANDAS, str(file)], folder)
            goal = f"goal {case.seconds:g} s" + (f" and {case.megabytes:,} MB" if case.megabytes else "")
            yield (
                f"planning {case.rows:,} rows of {file.stat().st_size / 1e6:.0f} MB: {wall:.1f} s ({cpu:.1f} s of CPU), "
                f"{peak:,.0f} MB ({goal}); pandas reads the file in {pandas:.1f} s, {pandas_peak:,.0f} MB"
            )
        yield f"  SIGTERM {_SIGTERM_AFTER_S:g} s into the last: {_until_it_ends(file, folder):.2f} s until the plan ends"


def _written(file: Path, case: Case) -> Path:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(VOCABULARY)]
    with file.open("w", encoding="utf-8") as out:
        out.write("text_input,output\n")
        for _ in range(case.rows):
            out.write(f"{' '.join(draw.choices(words, k=case.words))},label_{words[draw.randrange(LABELS)]}\n")
    return file


def _plan(file: Path) -> list[str]:
    return ["plan", "name=scale", f"dataset.path={file}", "dataset.validation.fraction=0.01", "tracking=none"]


def _measured(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds, seconds of CPU and megabytes at the peak of a command."""
    start = time.perf_counter()
    measured = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
    )
    cpu_s, peak = map(float, measured.stdout.split())
    kilobytes = peak / (1024 if sys.platform == "darwin" else 1)
    return time.perf_counter() - start, cpu_s, kilobytes / 1000


def _until_it_ends(file: Path, folder: Path) -> float:
    """Seconds from SIGTERM until a plan has ended."""
    command = [sys.executable, "-m", "tunerun", *_plan(file)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(_SIGTERM_AFTER_S)
    process.send_signal(signal.SIGTERM)
    start = time.perf_counter()
    assert process.wait() == 130
    return time.perf_counter() - start


if __name__ == "__main__":
    for line in run():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
