"""MLflow as a projection of the ledger: it can be rebuilt at any time, and replaying twice adds nothing.

`store.py` is the only importer of mlflow, and imports it when it is first needed: importing this package, opening a
tracker and asking it for a run id or a link cost nothing.

    ledger -> run_projection.py, trial.py, summary.py    what MLflow should show, as plain values
           -> replay.py                         what of it was not sent yet, by the ledger's marks
           -> store.py                          MLflow
    writer.py                                   the thread that does this while a sweep runs
    records.py                                  the way back: MLflow -> the record of a sweep, from any of its runs
"""

from tunerun.tracking.address import tracker_name
from tunerun.tracking.replay import SyncReport
from tunerun.tracking.server import serve_ui
from tunerun.tracking.writer import Tracker, open_tracker

__all__ = ["SyncReport", "Tracker", "open_tracker", "serve_ui", "tracker_name"]
