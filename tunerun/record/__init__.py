"""Records of finished sweeps: rerun, verify, compare, bundle and describe them.

`sources.open_record` finds a sweep or a trial by any of its names and opens it as a ledger, whether it is in this
project's ledger, in MLflow, or in a bundle. Everything else in this package works on the `OpenRecord` it yields.
"""

from tunerun.record.sources import OpenRecord, open_record

__all__ = ["OpenRecord", "open_record"]
