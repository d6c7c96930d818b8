"""Runs a plan: prepares its backends, freezes it in the ledger, runs the loop beside the tracker, and compares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tunerun.backends import open_backend
from tunerun.backends.base import Backend
from tunerun.engine.base_model import cache_folder
from tunerun.errors import BackendError, InputError
from tunerun.job import BaseModelRef
from tunerun.ledger import Ledger, SweepRecord
from tunerun.locks import held
from tunerun.metrics import load_code, resolve
from tunerun.planning import Plan, Trial, with_exact_tokens
from tunerun.planning.facts import facts_of
from tunerun.runner.bars import automatic
from tunerun.runner.judging import judge_answers
from tunerun.runner.loop import Loop
from tunerun.runner.progress import Progress
from tunerun.runner.sweep_result import SweepResult, result_of
from tunerun.runner.unwatched_jobs import BackendOpener
from tunerun.schema import TrialConfig
from tunerun.tracking import Tracker, open_tracker

CLOSE_TIMEOUT_S = 30.0
"""Seconds that the end of a run waits for the tracker; `tunerun sync` sends the rest later."""


INTERRUPTED_TIMEOUT_S = 5.0
"""The same after Ctrl-C: enough to mark the sweep as interrupted; a second Ctrl-C ends the wait."""


def run(
    plan: Plan,
    *,
    progress: Progress | Literal["auto"] | None = "auto",
    command: str = "tunerun.run",
    retry_failed: bool = False,
    poll_interval_s: float | None = None,
    open_backend: BackendOpener = open_backend,
) -> SweepResult:
    """Run the trials of a plan that are not done, and compare all of them.

    A backend that refuses every call, or does not answer for too long, ends the run; the result's `stopped` says why.

    Args:
        plan: from `tunerun.plan`.
        progress: hooks that show progress; `auto`: bars in a terminal or a notebook; None: nothing.
        command: the command that started the run, for the record.
        retry_failed: whether trials that failed earlier are submitted again.
        poll_interval_s: seconds between two polls of the running jobs; None: each backend's own interval.
        open_backend: opens a backend from its config section; replaced in tests.

    Returns:
        The comparison of all trials of the sweep, including those of earlier runs.

    Raises:
        InputError: a base model cannot be found or loaded, an example is too long for it, the tracking URI is invalid,
            a metric's file cannot be run, or the data or the base model changed since the last sweep of this name;
            nothing was submitted.
        LimitError: the budget or this machine's memory is too small; nothing was submitted.
        LockedError: another process runs this sweep; the message names it.
        LedgerError: the ledger cannot be written.
        KeyboardInterrupt: the run was interrupted; the same call continues with the rest.
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
        # Once, before the first job: the file of a user's own metric that cannot run must not cost a sweep.
        sections = {id(t.config.evaluation): t.config.evaluation for t in plan.trials}
        load_code(metric for section in sections.values() for metric in resolve(section))
        unavailable = backends.prepare(plan.to_run(retry_failed=retry_failed), talk)
        # A base model that was fetched just now makes the token counts exact, so the budget is checked again.
        plan = with_exact_tokens(plan)
        plan.check(retry_failed=retry_failed)
        stack.enter_context(held(plan.runs, plan.sweep))
        ledger = stack.enter_context(Ledger(plan.ledger_path))
        if not ledger.is_frozen(plan.sweep):
            _freeze(plan, ledger, command, backends.cache)
        ledger.clear_cancel_requests(plan.sweep)  # of an earlier run, which ended before it obeyed them
        loop = Loop(
            plan, ledger, backends.of, talk, unavailable, poll_interval_s=poll_interval_s, retry_failed=retry_failed
        )
        sweep = next(each for each in ledger.sweeps(plan.name) if each.id == plan.sweep)
        _run_tracked(plan, ledger, loop, tracker, sweep, talk)
        return replace(result_of(ledger, [sweep], tracker, backends.cache), stopped=loop.stopped)


def _freeze(plan: Plan, ledger: Ledger, command: str, cache: Path) -> None:
    """Record everything that the plan depends on, in one transaction before the first job.

    A kill before it leaves nothing, a kill after it a sweep that any process can continue.
    """
    sets = {s.digest: (t, s) for t in plan.trials for s in (t.training, *t.held_out.values())}
    ledger.freeze(
        plan.sweep_record(command, facts_of(plan.experiment, plan.trials, cache)),
        (trial.record() for trial in plan.trials),
        [replace(s, source=t.as_stored(s.source)) for t, s in sets.values()],
        [baseline.record() for baseline in plan.baselines],
    )


def _run_tracked(
    plan: Plan, ledger: Ledger, loop: Loop, tracker: Tracker | None, sweep: SweepRecord, talk: Progress
) -> None:
    """Run the loop and the judges while the tracker follows; after Ctrl-C wait only briefly for the tracker."""
    patience_s = CLOSE_TIMEOUT_S
    try:
        if tracker is not None:
            tracker.start(sweep.id)
        loop.run()
        if plan.judges:  # missing judgements are noted and do not fail the run
            metrics = [judge.metric for judge in plan.judges]
            budget, recorded = plan.experiment.budget.max_usd, plan.recorded.ratings
            for problem in judge_answers(ledger, [sweep], metrics, max_usd=budget, recorded=recorded, progress=talk):
                talk.note(problem)
    except KeyboardInterrupt:
        patience_s = INTERRUPTED_TIMEOUT_S
        raise
    finally:
        if tracker is not None:
            tracker.close(patience_s)
            if tracker.problem is not None and sys.exc_info()[0] is not None:  # no result will report it
                talk.note(tracker.problem)


class _Backends:
    """The backends of a plan, one for each distinct section, opened on first use and closed with the stack."""

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
            Why a backend did not answer, by the backend object's `id()`.

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
