"""Records of finished sweeps: rerun, verify, compare, bundle and describe them.

`sources.open_record` finds a sweep or a trial by any name that it has and opens it as a ledger, wherever it is kept:
in this project's ledger, in MLflow, or in a bundle. Everything else in this room works on what that gives.
"""

from tunerun.record.sources import OpenRecord, open_record

__all__ = ["OpenRecord", "open_record"]
