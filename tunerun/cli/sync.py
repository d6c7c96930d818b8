"""`tunerun sync`: brings MLflow up to date."""

from __future__ import annotations

from pathlib import Path

from tunerun.cli.options import ConfigDir, Json, Overrides
from tunerun.cli.printing import print_json
from tunerun.errors import InputError


def sync(overrides: Overrides = None, config_dir: ConfigDir = None, json_: Json = False) -> None:
    """Bring MLflow up to date with the ledger."""
    from tunerun.cli.tables import note, out
    from tunerun.compose import places
    from tunerun.errors import TrackingError
    from tunerun.runner.selection import existing_ledger
    from tunerun.tracking import open_tracker

    paths, tracking = places(overrides or (), config_dir)
    tracker = open_tracker(tracking, Path(paths.runs))
    if tracker is None:
        raise InputError("tracking: none; choose tracking=mlflow")
    existing_ledger(Path(paths.runs))
    report = tracker.sync()
    # A run only notes this and continues, since the ledger keeps everything; here there is nothing else to do.
    if tracker.problem:
        raise TrackingError(tracker.problem)
    if tracker.notice:
        note(tracker.notice)
    if json_:
        print_json({"sweeps": report.sweeps, "runs": report.runs, "points": report.points})
    else:
        out.print(str(report))
