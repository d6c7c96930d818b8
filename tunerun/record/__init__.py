"""Records of finished sweeps: rerun, verify, compare, bundle and describe them.

Everything here works on an `OpenRecord`: a sweep or a trial, read from this project's ledger, from MLflow or from a
bundle.

sources.py              finds a record by any of its names and opens it as a ledger
rerun.py                plans its trials again with the same keys: `tunerun rerun`, `tunerun verify`
rerun_folder.py         the runs folder of a rerun
stored_config.py        an experiment from stored configs, and mismatches.py why its trials have other keys
environment_changes.py  differences between the recorded machine and this one
verification.py         compares a rerun's results with the record's
running.py              all of this in one call: `tunerun.rerun`
promotion.py            a tuned model as a version in MLflow's registry: `tunerun promote`
bundle/                 one file that can be run again elsewhere: `tunerun bundle`
difference/             what differs between two records: `tunerun diff`
appendix/               answers to reviewers' checklists: `tunerun appendix`
"""

from tunerun.record.sources import OpenRecord, open_record

__all__ = ["OpenRecord", "open_record"]
