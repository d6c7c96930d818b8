"""What a process does once that others are forked from: a whole run, so that each of them finds everything imported.

A rehearsal and not a list of modules: a run also imports what it needs late, reads the base model's header and
tokenizer, lists the installed packages, composes with Hydra and draws. Without it that was 0.7 of the 1.0 s of every
run of four trials (measured here, 26 Nov 2026).
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import matplotlib

from tunerun.cli import main
from tunerun.testing.gemini_service import GeminiService


@contextlib.contextmanager
def _as_a_command(folder: str, *arguments: str) -> Iterator[None]:
    """This process as the command line would find its own; what it prints is dropped."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = {"GEMINI_API_KEY": "rehearsal", "MLFLOW_DISABLE_TELEMETRY": "true"}
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            mock.patch.dict(os.environ, environment),
            mock.patch.object(sys, "argv", ["tunerun", *arguments]),
        ):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def rehearse() -> None:
    """Run one trial at a scripted service, shown in MLflow, in a folder that is removed."""
    matplotlib.use("agg")  # as in a process without a display
    with tempfile.TemporaryDirectory() as folder, GeminiService() as service:
        rows = Path(folder, "rows.json")
        rows.write_text(json.dumps([{"text_input": str(n), "output": str(n + 1)} for n in range(8)]))
        arguments = ["name=rehearsal", f"dataset.path={rows}", f"dataset.validation.path={rows}", "backend=gemini"]
        arguments += [f"backend.base_url={service.address}", "backend.poll_interval_s=0.0"]
        with _as_a_command(folder, "run", "--json", *arguments):
            try:
                main()
            except SystemExit as ended:
                if ended.code:
                    raise RuntimeError(f"the rehearsal ended with exit code {ended.code}") from None
        for thread in threading.enumerate():
            if thread.name == "tunerun-tracker":  # on a busy machine a run ends before MLflow's new store is made
                thread.join()


rehearse()
gc.collect()
gc.freeze()  # else each fork's first full collection walks, and copies, all that was imported
assert threading.active_count() == 1, threading.enumerate()  # noqa: S101 - a fork would not have them
