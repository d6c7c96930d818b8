"""A plan is run: what is not done of it is submitted, watched, measured, and all of it compared.

The ledger is written before and after every outside effect, so that the same command, started again after Ctrl-C, a
crash or kill -9, looks up what is there and goes on with what is missing.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunerun.backends import open_backend
from tunerun.backends.base import Backend
from tunerun.comparison import judge
from tunerun.comparison.renderers.document import document
from tunerun.comparison.renderers.frame import trials_frame
from tunerun.comparison.results import Verdict
from tunerun.comparison.table import ComparisonTable
from tunerun.engine.base_model import cache_folder
from tunerun.engine.tuned_model import fault as fault_of
from tunerun.errors import BackendError, InputError
from tunerun.job import BaseModelRef, ExampleSet, JobState
from tunerun.ledger import Ledger, SweepRecord
from tunerun.locks import held
from tunerun.metrics import load_code, resolve
from tunerun.planning import Plan, Trial, counted
from tunerun.planning.facts import facts_of
from tunerun.runner.bars import automatic
from tunerun.runner.judging import judge_answers
from tunerun.runner.loop import Loop
from tunerun.runner.progress import Progress
from tunerun.runner.selection import existing_ledger, selected
from tunerun.runner.unwatched_jobs import BackendOpener, UnwatchedJob, cancel, unwatched_jobs
from tunerun.schema import Evaluation, TrialConfig
from tunerun.tracking import Tracker, open_tracker

if TYPE_CHECKING:
    import pandas

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

CLOSE_TIMEOUT_S = 30.0
"""How long the end of a run waits for the tracker; `tunerun sync` brings the rest."""

_MAX_FAULTS = 10
"""Tuned models that are named one by one when they are missing."""

INTERRUPTED_TIMEOUT_S = 5.0
"""The same after Ctrl-C: enough to record there that the sweep was interrupted; a second Ctrl-C ends the wait."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        verdict: every trial with its measures, the baselines, and which trial to use.
        run_ids: MLflow's run ids by a trial's place in `verdict.trials`; only those that MLflow has been told of.
        link: the page of MLflow that shows the runs, relative to the server's address; None without MLflow.
        server: the address of the tracking server; None: `tunerun ui` starts one.
        tracking_problem: what MLflow has missed and why, or what was done about its store; None: nothing.
        stopped: why the run ended before every trial had its chance; None: it did not.
        faults: what is missing or changed of the tuned models on this machine and how to make it again, one line each.
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
        """All points beside the baselines: shown as a table in a notebook, and as text by `print`."""
        return ComparisonTable.of(self.verdict)

    @property
    def exit_code(self) -> int:
        """0: every trial succeeded and was measured; 1: at least one was not, or the run was stopped."""
        succeeded = all(trial.state is JobState.SUCCEEDED for trial in self.verdict.trials)
        return 0 if self.stopped is None and succeeded and self.verdict.is_measured else 1

    def to_json(self) -> dict[str, Any]:
        """The result as `run --json` prints it."""
        return {**document(self.table, self.run_ids), "stopped": self.stopped, "faults": list(self.faults)}

    def to_pandas(self) -> pandas.DataFrame:
        """One row a trial: its number, its point, what it varied, its state, its measures, its tuned model."""
        return trials_frame(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    def __repr__(self) -> str:
        """One line; `table` and `verdict` have it all."""
        states = ", ".join(f"{n} {state}" for state, n in Counter(t.state for t in self.verdict.trials).items())
        return f"<SweepResult {', '.join(sweep.id for sweep in self.verdict.sweeps)}: {states}>"


def run(
    plan: Plan,
    *,
    progress: Progress | Literal["auto"] | None = "auto",
    command: str = "tunerun.run",
    retry_failed: bool = False,
    poll_interval_s: float | None = None,
    open_backend: BackendOpener = open_backend,
) -> SweepResult:
    """Run what is not done of a plan, and compare all of it.

    A backend that refuses every call, or does not answer for too long, ends the run; the result's `stopped` says why.

    Args:
        plan: from `tunerun.plan`.
        progress: what to tell while it works; `auto`: bars in a terminal and in a notebook; None: nothing.
        command: how it was started, for the record.
        retry_failed: submit trials again that failed before.
        poll_interval_s: seconds between two looks at the running jobs; None: as their backends say.
        open_backend: how a config's backend section becomes a backend; the seam for tests.

    Raises:
        InputError: a base model cannot be found or loaded, an example is longer than it takes, the tracking URI is
            none, a metric's file cannot be run, or data or base model changed since the last sweep of this name;
            nothing was submitted.
        LimitError: the budget does not reach; nothing was submitted.
        LockedError: another process runs this sweep; names it.
        LedgerError: the ledger cannot be written.
        KeyboardInterrupt: interrupted; the same call goes on with what is missing.
    """
    if isinstance(progress, str) and progress != "auto":
        raise InputError(
            f"progress: {progress!r}; give 'auto', None, or an object like tunerun.runner.progress.Progress"
        )
    plan.check(retry_failed=retry_failed)
    tracker = open_tracker(plan.experiment.tracking, plan.runs)
    with ExitStack() as stack:
        backends = _Backends(plan, stack, open_backend)
        talk = stack.enter_context(automatic()) if progress == "auto" else progress or Progress()
        sections = {id(t.config.evaluation): t.config.evaluation for t in plan.trials}
        load_code(metric for section in sections.values() for metric in resolve(section))
        unavailable = backends.prepare(plan.to_run(retry_failed=retry_failed), talk)
        plan = counted(plan)  # a base model that came to this machine only now has shown how long the examples are
        plan.check(retry_failed=retry_failed)
        stack.enter_context(held(plan.runs, plan.sweep))
        ledger = stack.enter_context(Ledger(plan.ledger_path))
        if not ledger.is_frozen(plan.sweep):
            _freeze(plan, ledger, command, backends.cache)
        ledger.clear_cancel_requests(plan.sweep)
        loop = Loop(plan, ledger, backends.of, talk, poll_interval_s, retry_failed, unavailable)
        sweep = next(each for each in ledger.sweeps(plan.name) if each.id == plan.sweep)
        _run_tracked(loop, tracker, sweep, talk)
        return replace(result_of(ledger, [sweep], tracker, backends.cache), stopped=loop.stopped)


def _freeze(plan: Plan, ledger: Ledger, command: str, cache: Path) -> None:
    """Write the plan into the ledger, with what it depends on, before the first job."""
    trials = (t.record() for t in plan.trials)
    sweep = plan.sweep_record(command, facts_of(plan.experiment, plan.trials, cache))
    ledger.freeze(sweep, trials, _example_sets(plan), [b.record() for b in plan.baselines])


def _run_tracked(loop: Loop, tracker: Tracker | None, sweep: SweepRecord, talk: Progress) -> None:
    """Run the loop and judge its answers while the tracker follows; an interruption does not wait long for it."""
    patience_s = CLOSE_TIMEOUT_S
    try:
        if tracker is not None:
            tracker.start(sweep.id)
        loop.run()
        _judge(loop.plan, loop.ledger, sweep, talk)
    except KeyboardInterrupt:
        patience_s = INTERRUPTED_TIMEOUT_S
        raise
    finally:
        if tracker is not None:
            tracker.close(patience_s)
            if tracker.problem is not None and sys.exc_info()[0] is not None:  # no result will carry it
                talk.note(tracker.problem)


def _judge(plan: Plan, ledger: Ledger, sweep: SweepRecord, talk: Progress) -> None:
    """Ask the judges of a plan's metrics; what they lack is said, and stops nothing."""
    if plan.judges:
        metrics = [judge.metric for judge in plan.judges]
        budget, recorded = plan.experiment.budget.max_usd, plan.recorded.ratings
        for problem in judge_answers(ledger, [sweep], metrics, max_usd=budget, recorded=recorded, progress=talk):
            talk.note(problem)


def compare(*sweeps: str, runs: str | Path = "runs", evaluation: Evaluation | None = None) -> SweepResult:
    """Compare the trials of sweeps that have run, as far as they have; reads the ledger and writes nothing.

    Judges are asked by `run` and by the command `tunerun compare`, and not here.

    Args:
        sweeps: ids of sweeps, or names of experiments, which mean their newest; none: the newest of all. Several are
            compared in one family, on the held-out rows that they share.
        runs: the folder that holds the ledger.
        evaluation: how the stored answers are scored, such as `tunerun.load([...]).evaluation`; None: as was frozen
            with the first sweep.

    Raises:
        NotFoundError: there is no ledger or no such sweep; lists those that there are.
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
    """What the ledger, and MLflow where it is used, know of one or several sweeps now.

    Args:
        cache: where digests of large files are remembered; None: the adapters of all trials are read.
        evaluation: how answers are scored; None: as was frozen with the first sweep.
    """
    verdict = judge(ledger, sweeps, evaluation=evaluation)
    faults = _faults(verdict, cache)
    if tracker is None:
        return SweepResult(verdict, {}, None, None, faults=faults)
    first = sweeps[0].id
    ascending = bool(verdict.measures) and not verdict.measures[0].higher_is_better
    link = tracker.link(ledger, first, verdict.metric, ascending=ascending)
    said = tracker.problem or tracker.notice
    return SweepResult(verdict, _run_ids(ledger, verdict, tracker), link, said, server=tracker.server, faults=faults)


def _run_ids(ledger: Ledger, verdict: Verdict, tracker: Tracker) -> dict[int, str]:
    """MLflow's run ids by a trial's place in the verdict."""
    found = {(sweep.id, n): run for sweep in verdict.sweeps for n, run in tracker.run_ids(ledger, sweep.id).items()}
    places = {(trial.sweep, trial.record.number): place for place, trial in enumerate(verdict.trials)}
    return {places[key]: run for key, run in found.items() if key in places}


def _faults(verdict: Verdict, cache: Path | None) -> tuple[str, ...]:
    found: dict[str, list[int]] = {}
    for trial in verdict.trials:
        tuned = trial.tuned_model
        fault = None if tuned is None or tuned.folder is None else fault_of(tuned.folder, tuned.weights, cache)
        if fault is not None:
            found.setdefault(fault, []).append(trial.record.number)
    again = f"to make it again: {verdict.sweep.command_afresh}"
    lines = [f"trial {', '.join(map(str, numbers))}: {fault}; {again}" for fault, numbers in found.items()]
    if len(lines) <= _MAX_FAULTS:
        return tuple(lines)
    return (*lines[:_MAX_FAULTS], f"and {len(lines) - _MAX_FAULTS} more tuned models are missing or changed; {again}")


def states_of(ledger: Ledger, sweep: str) -> dict[JobState, int]:
    """How many trials of a sweep are in which state."""
    return dict(Counter(trial.state for trial in ledger.progress(sweep)))


def _example_sets(plan: Plan) -> list[ExampleSet]:
    sets = {s.digest: (t, s) for t in plan.trials for s in (t.training, *t.held_out.values())}
    return [replace(s, source=t.as_stored(s.source)) for t, s in sets.values()]


class _Backends:
    """The backends of a plan, opened when they are first needed and closed with the stack."""

    def __init__(self, plan: Plan, stack: ExitStack, opener: BackendOpener) -> None:
        self._opener = opener
        self._runs = plan.runs
        self.cache = cache_folder(plan.experiment.paths.cache)
        self._stack = stack
        self._open: dict[str, Backend] = {}
        self._of_section: dict[int, Backend] = {}  # the plan keeps the sections alive

    def of(self, config: TrialConfig) -> Backend:
        if id(config.backend) not in self._of_section:
            section = config.backend.model_dump_json()
            if section not in self._open:
                backend = self._opener(config.backend, self._runs, self.cache)
                self._open[section] = self._stack.enter_context(backend)
            self._of_section[id(config.backend)] = self._open[section]
        return self._of_section[id(config.backend)]

    def prepare(self, trials: Sequence[Trial], progress: Progress) -> dict[int, str]:
        """Find or fetch every base model before anything is submitted.

        Returns:
            Why a backend could not be asked, by the backend's `id`.

        Raises:
            InputError: a base model cannot be found.
        """
        models: dict[str, tuple[Backend, dict[str, BaseModelRef]]] = {}
        for trial in trials:
            backend = self.of(trial.config)
            entry = models.setdefault(trial.config.backend.model_dump_json(), (backend, {}))
            entry[1][trial.config.model.model_dump_json()] = trial.base_model
        problems: list[str] = []
        unavailable: dict[int, str] = {}
        for backend, wanted in models.values():
            progress.preparing([model.name for model in wanted.values()])
            try:
                backend.prepare(list(wanted.values()))
            except InputError as error:
                problems.extend(error.problems)
            except BackendError as error:
                unavailable[id(backend)] = str(error)
        if problems:
            raise InputError(problems)
        return unavailable
