"""The result of a sweep: its comparison, and links to its runs in MLflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunerun.comparison import judge
from tunerun.comparison.renderers.document import document
from tunerun.comparison.renderers.frame import trials_frame
from tunerun.comparison.results import Verdict
from tunerun.comparison.table import ComparisonTable
from tunerun.engine.tuned_model import fault as fault_of
from tunerun.job import JobState
from tunerun.ledger import Ledger, SweepRecord
from tunerun.runner.selection import existing_ledger, selected
from tunerun.schema import Evaluation
from tunerun.tracking import Tracker

if TYPE_CHECKING:
    import pandas


_MAX_FAULTS = 10
"""Maximum number of missing tuned models that are listed individually."""


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Attributes:
        verdict: every trial with its measures, the baselines, and which trial to use.
        run_ids: MLflow's run ids by a trial's index in `verdict.trials`; only of trials that are in MLflow.
        link: MLflow's page with the runs, relative to the server's address; None: no MLflow.
        tracking_problem: what is missing in MLflow and why, or how its store was repaired; None: nothing.
        stopped: why the run ended before all trials were submitted; None: it did not.
        server: address of the tracking server; None: there is none, and `tunerun ui` starts one.
        faults: tuned models that are missing or changed on this machine, each with the command that makes it again.
    """

    verdict: Verdict
    run_ids: Mapping[int, str]
    link: str | None
    tracking_problem: str | None
    stopped: str | None = None
    server: str | None = None
    faults: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that the sweep was started with."""
        return self.verdict.sweep.command

    @cached_property
    def table(self) -> ComparisonTable:
        """The comparison of all points and baselines; displays as a table in a notebook, and as text with `print`."""
        return ComparisonTable.of(self.verdict)

    @property
    def exit_code(self) -> int:
        """0: every trial succeeded and was measured; 1: at least one was not, or the run was stopped."""
        succeeded = all(trial.state is JobState.SUCCEEDED for trial in self.verdict.trials)
        return 0 if self.stopped is None and succeeded and self.verdict.is_measured else 1

    def to_json(self) -> dict[str, Any]:
        """Return the result as `run --json` prints it."""
        return {**document(self.table, self.run_ids), "stopped": self.stopped, "faults": list(self.faults)}

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with one row per trial: number, point, overrides, state, measures, tuned model."""
        return trials_frame(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    def __repr__(self) -> str:
        """One line; `table` and `verdict` have the details."""
        states = ", ".join(f"{n} {state}" for state, n in Counter(t.state for t in self.verdict.trials).items())
        return f"<SweepResult {', '.join(sweep.id for sweep in self.verdict.sweeps)}: {states}>"


def compare(*sweeps: str, runs: str | Path = "runs", evaluation: Evaluation | None = None) -> SweepResult:
    """Compare the trials of sweeps as far as they have run; reads the ledger and writes nothing.

    Judges are not called here; `run` and the command `tunerun compare` call them.

    Args:
        sweeps: ids of sweeps, or names of experiments for their newest sweep; none: the newest sweep of all. Several
            sweeps are compared in one family of tests, on the held-out rows that they share.
        runs: the folder of the ledger.
        evaluation: how stored answers are scored, such as `tunerun.load([...]).evaluation`; None: as frozen with the
            first sweep.

    Raises:
        NotFoundError: the ledger or a sweep does not exist; the message lists the existing sweeps.
    """
    with Ledger(existing_ledger(Path(runs)), read_only=True) as ledger:
        return result_of(ledger, selected(ledger, sweeps), None, evaluation=evaluation)


def result_of(
    ledger: Ledger,
    sweeps: Sequence[SweepRecord],
    tracker: Tracker | None,
    cache: Path | None = None,
    evaluation: Evaluation | None = None,
) -> SweepResult:
    """Return the current result of one or several sweeps, from the ledger and the tracker.

    Args:
        ledger: of the sweeps.
        sweeps: not empty.
        tracker: where the sweeps are published; None: no tracker.
        cache: folder of cached adapter digests; None: every adapter is read to check it.
        evaluation: how answers are scored; None: as frozen with the first sweep.
    """
    verdict = judge(ledger, sweeps, evaluation=evaluation)
    faults = _faults(verdict, cache)
    if tracker is None:
        return SweepResult(verdict, {}, None, None, faults=faults)
    first = sweeps[0].id
    ascending = bool(verdict.measures) and not verdict.measures[0].higher_is_better
    link = tracker.link(ledger, first, verdict.metric, ascending=ascending)
    places = {(trial.sweep, trial.record.number): place for place, trial in enumerate(verdict.trials)}
    tracked = {(sweep.id, n): run for sweep in verdict.sweeps for n, run in tracker.run_ids(ledger, sweep.id).items()}
    run_ids = {places[key]: run for key, run in tracked.items() if key in places}
    problem = tracker.problem or tracker.notice
    return SweepResult(verdict, run_ids, link, problem, server=tracker.server, faults=faults)


def _faults(verdict: Verdict, cache: Path | None) -> tuple[str, ...]:
    by_fault: dict[str, list[int]] = {}
    for trial in verdict.trials:
        tuned = trial.tuned_model
        fault = None if tuned is None or tuned.folder is None else fault_of(tuned.folder, tuned.weights, cache)
        if fault is not None:
            by_fault.setdefault(fault, []).append(trial.record.number)
    again = f"to make it again: {verdict.sweep.command_afresh}"
    lines = [f"trial {', '.join(map(str, numbers))}: {fault}; {again}" for fault, numbers in by_fault.items()]
    if len(lines) <= _MAX_FAULTS:
        return tuple(lines)
    return (*lines[:_MAX_FAULTS], f"and {len(lines) - _MAX_FAULTS} more tuned models are missing or changed; {again}")


def states_of(ledger: Ledger, sweep: str) -> dict[JobState, int]:
    """Return the number of a sweep's trials by state."""
    return dict(Counter(trial.state for trial in ledger.progress(sweep)))
