"""Runs plans: submits the trials that are not done, watches and measures them, and compares all of them.

The ledger is written before and after every external effect, so that the same command, run again after Ctrl-C, a crash
or kill -9, finds what was done and continues with the rest.
"""

from tunerun.runner.sweep_result import SweepResult, compare, result_of, states_of
from tunerun.runner.sweep_run import run
from tunerun.runner.unwatched_jobs import BackendOpener, UnwatchedJob, cancel, unwatched_jobs

__all__ = [
    "BackendOpener",
    "SweepResult",
    "UnwatchedJob",
    "cancel",
    "compare",
    "result_of",
    "run",
    "states_of",
    "unwatched_jobs",
]
