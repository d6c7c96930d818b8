"""Bringing MLflow up to date with the ledger, by marks that advance only after success (`marked_run.py`).

Every write can be repeated, and a run is looked for before it is created. A run that a person deleted in MLflow stays
deleted; one that is gone for good is made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunerun.errors import InputError, MetricError
from tunerun.ledger import Ledger, Mark, TrialProgress
from tunerun.ledger.subjects import RunKind, subject_of_sweep, trial_prefix
from tunerun.retry import retry
from tunerun.tracking.connection import BusyError, DamagedError, RefusedError
from tunerun.tracking.marked_run import MarkedRun, tags_version
from tunerun.tracking.run_projection import (
    RERUN_TAG,
    STANDINGS,
    FrozenSweep,
    Pages,
    RunProjection,
    SharedTrial,
    Standing,
)
from tunerun.tracking.store import Store, StoredRun

if TYPE_CHECKING:
    from tunerun.tracking.note import SweepLine

_BUSY_ATTEMPTS = 3
_BUSY_WAIT_S = 0.5
_SHARE_OF_JUDGING = 0.05
"""Of the time while a sweep runs: a verdict over hundreds of trials takes seconds, and is out of date with the next
trial; so does a record that MLflow does not take. The last one, when nothing runs the sweep any more, does not wait."""


@dataclass(frozen=True)
class SyncReport:
    """What a replay did.

    Attributes:
        sweeps: how many were looked at.
        runs: how many were written to.
        points: how many were sent.
        problem: what went wrong, in one line; None: nothing did.
    """

    sweeps: int = 0
    runs: int = 0
    points: int = 0
    problem: str | None = None

    def __str__(self) -> str:
        done = (
            f"MLflow is up to date: {self.runs} runs written to, {self.points} points sent, {self.sweeps} sweeps seen"
        )
        return done if self.problem is None else self.problem


class Replay:
    """Replays a ledger into a store; belongs to one thread, as its ledger does.

    Args:
        ledger: the truth.
        store: MLflow.
        tracker: the store's name in the ledger's marks.
        is_run: whether a process runs a sweep now.

    Attributes:
        runs: how many were written to.
        points: how many were sent.
    """

    def __init__(self, ledger: Ledger, store: Store, tracker: str, is_run: Callable[[str], bool]) -> None:
        self._ledger = ledger
        self._store = store
        self._tracker = tracker
        self._is_run = is_run
        self._frozen: dict[str, FrozenSweep] = {}
        self._stored: dict[str, dict[str, list[StoredRun]]] = {}  # what MLflow has, by experiment and subject
        self._verified: set[str] = set()  # sweeps whose marks were compared with what MLflow has
        self._not_before: dict[str, float] = {}  # when a sweep is judged again at the earliest, on the monotonic clock
        self.runs = 0
        self.points = 0

    def overdue(self) -> list[str]:
        """Return the sweeps whose runs in MLflow are out of date, judged from the ledger alone."""
        overdue = []
        for record in self._ledger.sweeps():
            if not self._ledger.marks(self._tracker, f"{record.id}/"):
                continue
            sweep = self._frozen_sweep(record.id)
            try:
                first = next(self._outdated(sweep, self._marks(sweep), Pages()), None)
            except RefusedError:  # only its verdict is missing, which cannot be computed here
                continue
            if first is not None:
                overdue.append(sweep.id)
        return overdue

    def sweep(self, sweep_id: str) -> None:
        """Bring one sweep up to date.

        Raises:
            TrackingError: MLflow could not be reached, or refused some run; the others are up to date then.
        """
        if not self._store.connection.is_same:
            self._forget()
        try:
            try:
                self._bring_up_to_date(self._frozen_sweep(sweep_id))
            except DamagedError:  # connecting again makes the store again
                self._forget()
                self._bring_up_to_date(self._frozen_sweep(sweep_id))
        except Exception:
            # Whether the last write took effect is not known: look before the next one.
            self._forget()
            raise

    def _forget(self) -> None:
        self._stored.clear()
        self._verified.clear()
        self._store.forget()

    def _frozen_sweep(self, sweep_id: str) -> FrozenSweep:
        if sweep_id not in self._frozen:
            self._frozen[sweep_id] = FrozenSweep(self._ledger, sweep_id)
        return self._frozen[sweep_id]

    def _bring_up_to_date(self, sweep: FrozenSweep) -> None:
        if sweep.experiment not in self._stored:
            self._find_runs(sweep.experiment)
        marks = self._marks(sweep)
        stored = self._stored[sweep.experiment]
        if sweep.id not in self._verified:
            # The mark of a run that MLflow no longer has is void, as after its store was lost.
            ids = {subject: {run.run_id for run in runs} for subject, runs in stored.items()}
            marks = {subject: mark for subject, mark in marks.items() if mark.run_id in ids.get(subject, ())}
        active = frozenset(run.run_id for runs in stored.values() for run in runs if run.is_active)
        pages = Pages(self._store.experiment(sweep.experiment), active)

        refusal: RefusedError | None = None
        for projection in self._outdated(sweep, marks, pages):
            started = time.monotonic()
            try:
                self._send(sweep, projection, marks.get(projection.subject))
            except RefusedError as error:
                refusal = refusal or error
                if projection.large_files:  # hundreds of megabytes are not tried again every few seconds
                    self._rest(sweep, started)
            if (mark := self._ledger.mark(self._tracker, projection.subject)) is not None:
                marks[projection.subject] = mark  # a projection may follow another one of the same run
        if refusal is not None:
            raise refusal
        self._verified.add(sweep.id)

    def _find_runs(self, experiment: str) -> None:
        """Ask MLflow which runs of an experiment it has, the oldest first."""
        stored: dict[str, list[StoredRun]] = {}
        for run in self._store.runs(self._store.experiment(experiment)):
            sweep, kind, key = (run.tags.get(f"tunerun.{name}", "") for name in ("sweep", "kind", "key"))
            is_trial = kind == RunKind.TRIAL
            prefix = trial_prefix(experiment, run.tags.get(RERUN_TAG, "")) if is_trial else f"{sweep}/{kind}/"
            stored.setdefault(prefix + key, []).append(run)
        self._stored[experiment] = stored

    def _marks(self, sweep: FrozenSweep) -> dict[str, Mark]:
        of_trials = self._ledger.trial_marks(self._tracker, sweep.id, sweep.trial_prefix)
        return self._ledger.marks(self._tracker, f"{sweep.id}/") | of_trials

    def _rest(self, sweep: FrozenSweep, started: float) -> None:
        """Postpone the next verdict of a sweep: what began at `started` may take only a small share of the time."""
        now = time.monotonic()
        self._not_before[sweep.id] = now + (now - started) / _SHARE_OF_JUDGING

    def _outdated(self, sweep: FrozenSweep, marks: Mapping[str, Mark], pages: Pages) -> Iterator[RunProjection]:
        """Yield projections of runs that are out of date; the sweep's own run first, so that links to it work."""
        from tunerun.tracking.summary import Summary  # numpy: a tracker is opened without it
        from tunerun.tracking.trial import trial_projection

        progress = self._ledger.progress(sweep.id)
        is_run = self._is_run(sweep.id)
        summary = Summary(self._ledger, sweep, progress, pages, is_run=is_run)
        subject = subject_of_sweep(sweep.id)
        mark_values: Mapping[str, Any] = marks[subject].document if subject in marks else {}
        sent = {each: mark.document.get("seen") for each, mark in marks.items()}  # the ledger's state, by subject

        if not is_run:
            # What an interruption left open is closed before the verdict: Ctrl-C leaves five seconds for all of it.
            for shared in self._shared_trials(sweep, progress, mark_values, pages):
                projection = None
                if shared.is_interrupted and sent.get(shared.subject, shared.ledger_digest) != shared.ledger_digest:
                    projection = trial_projection(self._ledger, shared)
                if projection is not None:
                    yield projection
                    sent[shared.subject] = shared.ledger_digest

        no_verdict: InputError | MetricError | None = None
        if sent.get(subject) != summary.ledger_digest and not (
            is_run and time.monotonic() < self._not_before.get(sweep.id, 0.0)
        ):
            started = time.monotonic()
            # The baselines come before the sweep's own run, whose mark says that they are done too.
            try:
                *baselines, own = summary.projections(self._other_sweeps(sweep))
            except (InputError, MetricError) as error:  # what decides is not known here, lacks a package, or fails
                no_verdict = error
                bare = summary.without_verdict(str(error))
                if sent.get(subject) != bare.ledger_digest:
                    yield bare
            else:
                self._rest(sweep, started)
                yield from baselines
                yield own
                mark_values = own.mark_values

        for shared in self._shared_trials(sweep, progress, mark_values, pages):
            if sent.get(shared.subject) != shared.ledger_digest:
                projection = trial_projection(self._ledger, shared)
                if projection is not None:
                    yield projection
        if no_verdict is not None:
            raise RefusedError(f"MLflow has no verdict of the sweep {sweep.id}: {no_verdict}") from no_verdict

    def _other_sweeps(self, sweep: FrozenSweep) -> list[SweepLine]:
        """Return the note's lines of the other sweeps of the same MLflow experiment, from their marks."""
        from tunerun.tracking.summary import line_of

        others = [s for s in self._ledger.sweeps() if s.id != sweep.id and s.mlflow_experiment == sweep.experiment]
        marks = {s.id: self._ledger.mark(self._tracker, subject_of_sweep(s.id)) for s in others}
        lines = (line_of(s, mark) for s in others if (mark := marks[s.id]) is not None)
        return [line for line in lines if line is not None]

    def _shared_trials(
        self, sweep: FrozenSweep, progress: Sequence[TrialProgress], mark_values: Mapping[str, Any], pages: Pages
    ) -> Iterator[SharedTrial]:
        """Yield each different trial of a sweep once, with all sweeps of the same MLflow experiment that have it.

        Args:
            mark_values: what the sweep's own mark holds, or will: the verdict may be newer than the mark.
        """
        members: dict[str, dict[str, int]] = {}
        for key, sweep_id, number in self._ledger.shared_trials(sweep.id):
            if sweep_id == sweep.id or self._frozen_sweep(sweep_id).trial_prefix == sweep.trial_prefix:
                members.setdefault(key, {}).setdefault(sweep_id, number)

        owners: dict[str, tuple[Sequence[TrialProgress], Mapping[str, Any], str | None]] = {}
        running: dict[str, bool] = {}
        for places in members.values():
            owner, number = list(places.items())[-1]  # the newest sweep that has it
            if owner not in owners:
                mark = self._ledger.mark(self._tracker, subject_of_sweep(owner))
                of_mark = {} if mark is None else mark.document
                owners[owner] = (
                    progress if owner == sweep.id else self._ledger.progress(owner),
                    (mark_values if owner == sweep.id else of_mark).get(STANDINGS, {}),
                    None if mark is None else mark.run_id,
                )
            of_owner, standings, record_run = owners[owner]
            of_trial = of_owner[number]
            is_open = of_trial.attempt > 0 and not of_trial.state.is_finished
            runner = of_trial.runner or owner
            if is_open and runner not in running:
                running[runner] = self._is_run(runner)
            frozen = [(self._frozen_sweep(each), self._frozen_sweep(each).by_number[n]) for each, n in places.items()]
            standing = standings.get(str(number))
            yield SharedTrial(
                frozen,
                of_trial,
                is_interrupted=is_open and not running[runner],
                standing=None if standing is None else Standing(*standing),
                record_run=record_run,
                pages=pages,
            )

    def _send(self, sweep: FrozenSweep, projection: RunProjection, mark: Mark | None) -> None:
        """Create a run unless MLflow has it, and send what it lacks; while MLflow is busy, try again."""
        experiment_id = self._store.experiment(sweep.experiment)
        is_repeated = False

        def send() -> None:
            nonlocal is_repeated
            if is_repeated:  # the attempt before may have created the run, and its answer was lost
                self._find_runs(sweep.experiment)
            is_repeated = True

            runs = self._stored[sweep.experiment].setdefault(projection.subject, [])
            document = dict(mark.document) if mark is not None else {}
            if not runs and mark is not None and mark.run_id is not None:
                runs.append(StoredRun(mark.run_id, {}, projection.start_ms, is_active=True))  # made since we looked
            if not runs:
                run_id = self._store.create(experiment_id, projection)
                runs.append(StoredRun(run_id, {}, projection.start_ms, is_active=True))
                document = {"tags": tags_version(projection), "name": projection.name}
            # Of several runs for one subject the one that is marked counts, else the oldest.
            run = next((run for run in runs if mark is not None and run.run_id == mark.run_id), runs[0])
            if not run.is_active:
                return
            if mark is not None and mark.run_id != run.run_id:
                document = {}
            marked = MarkedRun(
                self._ledger, self._store, self._tracker, experiment_id, run.run_id, projection.subject, document
            )
            self.points += marked.update(projection)
            self.runs += 1

        retry(send, on=BusyError, attempts=_BUSY_ATTEMPTS, first_wait_s=_BUSY_WAIT_S)
