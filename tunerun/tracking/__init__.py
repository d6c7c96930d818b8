"""MLflow as a projection of the ledger: it can be rebuilt at any time, and replaying twice adds nothing.

mlflow is imported when a store is first used (`connection.py`): importing this package, opening a tracker and asking it
for a run id or a link cost nothing.

    trial.py, baseline.py, summary.py   what MLflow should show, as a `RunProjection` of plain values for each run
    replay.py                           which runs are out of date
    marked_run.py                       what of a run was not sent yet, by its mark in the ledger
    store.py, logged_models.py          the writes, through the one `connection.py`
    writer.py                           the thread that does this while a sweep runs
    records.py                          the way back: MLflow -> the record of a sweep, from any of its runs
    registry.py, packaged/              a tuned model as a version in MLflow's registry, which MLflow can load
"""

from tunerun.tracking.address import tracker_name
from tunerun.tracking.replay import SyncReport
from tunerun.tracking.server import serve_ui
from tunerun.tracking.writer import Tracker, open_tracker

__all__ = ["SyncReport", "Tracker", "open_tracker", "serve_ui", "tracker_name"]
