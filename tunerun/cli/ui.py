"""`tunerun ui`: MLflow's server on this project's store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.options import UI_PORT, ConfigDir, Overrides
from tunerun.errors import InputError


def ui(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="Port on 127.0.0.1.")] = UI_PORT,
) -> None:
    """Start MLflow's server on this project's store.

    It can be reached from this machine only. Ctrl-C ends it.
    """
    from tunerun.cli.tables import note
    from tunerun.compose import places
    from tunerun.ledger import FILE_NAME
    from tunerun.tracking import open_tracker, serve_ui

    paths, tracking = places(overrides or (), config_dir)
    tracker = open_tracker(tracking, Path(paths.runs))
    if tracker is None:
        raise InputError("tracking: none; there is nothing to look at, choose tracking=mlflow and run `tunerun sync`")
    ledger = Path(paths.runs) / FILE_NAME
    if ledger.exists():
        # Before the server starts: close runs that an interruption left open, and rebuild a lost or damaged store.
        tracker.sync()
        if text := tracker.problem or tracker.notice:
            note(text)
    else:
        note(f"{ledger}: no ledger, so there is nothing to show yet; nothing has run, or paths.runs is another folder")
    raise typer.Exit(serve_ui(tracker.uri, port))
