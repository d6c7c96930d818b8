"""A program that runs the sweep of `sweeps.py` and kills itself at its first step: `killed_runner FOLDER MODEL OPTIONS`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.workers.sweeps import sweep
from tunerun.job import Snapshot
from tunerun.planning import Trial
from tunerun.runner import run
from tunerun.runner.progress import Progress


class KillsItself(Progress):
    """Kills this process at the first reported step."""

    def stepped(self, _trial: Trial, _snapshot: Snapshot) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, model, *options = sys.argv[1:]
    run(sweep(Path(folder), Path(model), *options), progress=KillsItself())
