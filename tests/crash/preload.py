"""Preloads the fork server of `kills`: does a whole run once, so that each forked process starts warm.

A full run rather than a list of imports, because a run also has late imports, reads the base model's header and
tokenizer, lists the installed packages, composes with Hydra and draws plots. Without the preload these took 0.7 of the
1.0 s of every run of four trials (measured here, 26 Nov 2026).
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

from tests.rigs.gemini_service import GeminiService
from tunerun.cli import main


@contextlib.contextmanager
def _as_a_command(folder: str, *arguments: str) -> Iterator[None]:
    """Set up this process like one of the command line, in a folder and with arguments; discard its output."""
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
    """Run one trial at a scripted service with MLflow tracking, in a temporary folder."""
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
gc.freeze()  # otherwise each fork's first full collection visits, and so copies, the memory of every import
assert threading.active_count() == 1, threading.enumerate()  # threads do not survive a fork
