"""Bringing MLflow up to date with the ledger, by marks that advance only after success.

A mark says for one run what was sent: its document holds the version of each part and the last step of each metric.
Losing a mark costs time and changes nothing: every write can be repeated, and a run is looked for before it is
created. Parts have versions of their own because a run changes with each step of its curve: sent whole, its files and
its model would go to MLflow every few seconds.

A run that a person deleted in MLflow stays deleted; one that is gone for good is made again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tunerun.digest import digest
from tunerun.errors import InputError, MetricError, TrackingError
from tunerun.ledger import Ledger, Mark, TrialProgress
from tunerun.ledger.subjects import RunKind, subject_of_sweep, trial_prefix
from tunerun.retry import retry
from tunerun.tracking.run_projection import (
    RERUN_TAG,
    STANDINGS,
    FrozenSweep,
    MetricPoint,
    Pages,
    RunProjection,
    RunState,
    SharedTrial,
    SingleMetric,
    Standing,
)
from tunerun.tracking.store import PAGE, BusyError, DamagedError, KnownRun, RefusedError, Store

if TYPE_CHECKING:
    from tunerun.tracking.note import SweepLine

_BUSY_ATTEMPTS = 3
_BUSY_WAIT_S = 0.5
_SHARE_OF_JUDGING = 0.05
"""Of the time while a sweep runs: a verdict over hundreds of trials takes seconds, and is out of date with the next
trial; so does a record that MLflow does not take. The last one, when nothing runs the sweep any more, does not wait."""


@dataclass(frozen=True)
class SyncReport:
    """What a replay did: the sweeps it looked at, the runs it wrote to, the points it sent, and what went wrong."""

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
        tracker: the store's name in the ledger's marks.
        is_run: whether a process runs a sweep now.
    """

    def __init__(self, ledger: Ledger, store: Store, tracker: str, is_run: Callable[[str], bool]) -> None:
        self._ledger = ledger
        self._store = store
        self._tracker = tracker
        self._is_run = is_run
        self._frozen: dict[str, FrozenSweep] = {}
        self._known: dict[str, dict[str, list[KnownRun]]] = {}
        self._verified: set[str] = set()
        self._rests: dict[str, float] = {}
        self.runs = 0
        self.points = 0

    def overdue(self) -> list[str]:
        """Return the sweeps whose runs in MLflow are out of date, judged from the ledger alone."""
        overdue = []
        for record in self._ledger.sweeps():
            if self._ledger.marks(self._tracker, f"{record.id}/"):
                sweep = self._frozen_sweep(record.id)
                try:
                    is_overdue = any(True for _ in self._outdated(sweep, self._marks(sweep), Pages()))
                except RefusedError:  # only its verdict is missing, which cannot be computed here
                    is_overdue = False
                if is_overdue:
                    overdue.append(sweep.id)
        return overdue

    def sweep(self, sweep_id: str) -> None:
        """Bring one sweep up to date.

        Raises:
            TrackingError: MLflow could not be reached, or refused some run; the others are up to date then.
        """
        if not self._store.is_same:
            self._forget()
        try:
            try:
                self._turn(self._frozen_sweep(sweep_id))
            except DamagedError:  # connecting again makes it again
                self._forget()
                self._turn(self._frozen_sweep(sweep_id))
        except Exception:
            # Whether the last write took effect is not known: look before the next one.
            self._forget()
            raise

    def _forget(self) -> None:
        self._known.clear()
        self._verified.clear()
        self._store.forget()

    def _frozen_sweep(self, sweep_id: str) -> FrozenSweep:
        if sweep_id not in self._frozen:
            self._frozen[sweep_id] = FrozenSweep(self._ledger, sweep_id)
        return self._frozen[sweep_id]

    def _turn(self, sweep: FrozenSweep) -> None:
        if sweep.experiment not in self._known:
            self._look(sweep.experiment)
        marks = self._marks(sweep)
        known = self._known[sweep.experiment]
        if sweep.id not in self._verified:
            # The mark of a run that MLflow no longer has is void, as after its store was lost.
            ids = {subject: {run.run_id for run in runs} for subject, runs in known.items()}
            marks = {subject: mark for subject, mark in marks.items() if mark.run_id in ids.get(subject, ())}
        active = frozenset(run.run_id for runs in known.values() for run in runs if run.is_active)
        pages = Pages(self._store.experiment(sweep.experiment), active)
        refused: RefusedError | None = None
        for projection in self._outdated(sweep, marks, pages):
            started = time.monotonic()
            try:
                self._send_patiently(sweep, projection, marks.get(projection.subject))
            except RefusedError as error:
                refused = refused or error
                if projection.written:  # hundreds of megabytes are not tried again every few seconds
                    now = time.monotonic()
                    self._rests[sweep.id] = now + (now - started) / _SHARE_OF_JUDGING
            if (mark := self._ledger.mark(self._tracker, projection.subject)) is not None:
                marks[projection.subject] = mark  # a projection may follow another one of the same run
        if refused is not None:
            raise refused
        self._verified.add(sweep.id)

    def _look(self, experiment: str) -> None:
        """Ask MLflow which runs of an experiment it has, the oldest first."""
        known: dict[str, list[KnownRun]] = {}
        for run in self._store.runs(self._store.experiment(experiment)):
            sweep, kind, key = (run.tags.get(f"tunerun.{name}", "") for name in ("sweep", "kind", "key"))
            is_trial = kind == RunKind.TRIAL
            prefix = trial_prefix(experiment, run.tags.get(RERUN_TAG, "")) if is_trial else f"{sweep}/{kind}/"
            known.setdefault(prefix + key, []).append(run)
        self._known[experiment] = known

    def _marks(self, sweep: FrozenSweep) -> dict[str, Mark]:
        of_trials = self._ledger.trial_marks(self._tracker, sweep.id, sweep.trial_prefix)
        return self._ledger.marks(self._tracker, f"{sweep.id}/") | of_trials

    def _outdated(self, sweep: FrozenSweep, marks: Mapping[str, Mark], pages: Pages) -> Iterator[RunProjection]:
        """Yield projections of runs that are out of date; the sweep's own run first, so that links to it work."""
        from tunerun.tracking.summary import Summary  # numpy: a tracker is opened without it
        from tunerun.tracking.trial import trial_projection

        progress = self._ledger.progress(sweep.id)
        is_run = self._is_run(sweep.id)
        summary = Summary(self._ledger, sweep, progress, pages, is_run=is_run)
        mark = marks.get(sweep.subject(RunKind.SWEEP))
        no_verdict: InputError | MetricError | None = None
        remembered: Mapping[str, Any] = mark.document if mark is not None else {}
        seen = {subject: _seen(known) for subject, known in marks.items()}
        if not is_run:
            # What an interruption left open is closed before the verdict: Ctrl-C leaves five seconds for all of it.
            for shared in self._shared_trials(sweep, progress, remembered, pages):
                is_left_open = shared.is_interrupted and seen.get(shared.subject, shared.seen) != shared.seen
                projection = trial_projection(self._ledger, shared) if is_left_open else None
                if projection is not None:
                    yield projection
                    seen[shared.subject] = shared.seen
        if _seen(mark) != summary.seen and not (is_run and time.monotonic() < self._rests.get(sweep.id, 0.0)):
            started = time.monotonic()
            # The baselines come before the sweep's own run, whose mark says that they are done too.
            try:
                *baselines, own = summary.projections(self._lines(sweep))
            except (InputError, MetricError) as error:  # what decides is not known here, lacks a package, or fails
                no_verdict = error
                bare = summary.without_verdict(str(error))
                if _seen(mark) != bare.seen:
                    yield bare
            else:
                now = time.monotonic()
                self._rests[sweep.id] = now + (now - started) / _SHARE_OF_JUDGING
                yield from baselines
                yield own
                remembered = own.remembered
        for shared in self._shared_trials(sweep, progress, remembered, pages):
            if seen.get(shared.subject) != shared.seen:
                projection = trial_projection(self._ledger, shared)
                if projection is not None:
                    yield projection
        if no_verdict is not None:
            raise RefusedError(f"MLflow has no verdict of the sweep {sweep.id}: {no_verdict}") from no_verdict

    def _lines(self, sweep: FrozenSweep) -> list[SweepLine]:
        """Return the note's lines of the other sweeps of the same MLflow experiment, from their marks."""
        from tunerun.tracking.summary import line_of

        others = [s for s in self._ledger.sweeps() if s.id != sweep.id and s.mlflow_experiment == sweep.experiment]
        marks = {s.id: self._ledger.mark(self._tracker, subject_of_sweep(s.id)) for s in others}
        lines = (line_of(s, mark) for s in others if (mark := marks[s.id]) is not None)
        return [line for line in lines if line is not None]

    def _shared_trials(
        self, sweep: FrozenSweep, progress: Sequence[TrialProgress], remembered: Mapping[str, Any], pages: Pages
    ) -> Iterator[SharedTrial]:
        """Each different trial of a sweep once, with all sweeps of the same MLflow experiment that have it."""
        members: dict[str, dict[str, int]] = {}
        for key, sweep_id, number in self._ledger.shared_trials(sweep.id):
            if sweep_id == sweep.id or self._frozen_sweep(sweep_id).trial_prefix == sweep.trial_prefix:
                members.setdefault(key, {}).setdefault(sweep_id, number)
        of_sweep = {sweep.id: progress}
        standings = {sweep.id: remembered.get(STANDINGS, {})}
        records: dict[str, str | None] = {}
        running: dict[str, bool] = {}
        for places in members.values():
            owner, number = list(places.items())[-1]
            if owner not in of_sweep:
                of_sweep[owner] = self._ledger.progress(owner)
                mark = self._ledger.mark(self._tracker, subject_of_sweep(owner))
                standings[owner] = mark.document.get(STANDINGS, {}) if mark is not None else {}
            if owner not in records:
                mark = self._ledger.mark(self._tracker, subject_of_sweep(owner))
                records[owner] = None if mark is None else mark.run_id
            known = of_sweep[owner][number]
            is_open = known.attempt > 0 and not known.state.is_finished
            runner = known.runner or owner
            if is_open and runner not in running:
                running[runner] = self._is_run(runner)
            frozen = [(self._frozen_sweep(each), self._frozen_sweep(each).by_number[n]) for each, n in places.items()]
            said = standings[owner].get(str(number))
            yield SharedTrial(
                frozen,
                known,
                is_interrupted=is_open and not running[runner],
                standing=None if said is None else Standing(*said),
                record_run=records[owner],
                pages=pages,
            )

    def _send_patiently(self, sweep: FrozenSweep, projection: RunProjection, mark: Mark | None) -> None:
        is_repeated = False

        def send() -> None:
            nonlocal is_repeated
            if is_repeated:  # the attempt before may have created the run, and its answer was lost
                self._look(sweep.experiment)
            is_repeated = True
            self._send(sweep, projection, mark)

        retry(send, on=BusyError, attempts=_BUSY_ATTEMPTS, first_wait_s=_BUSY_WAIT_S)

    def _send(self, sweep: FrozenSweep, projection: RunProjection, mark: Mark | None) -> None:
        experiment_id = self._store.experiment(sweep.experiment)
        found = self._known[sweep.experiment].setdefault(projection.subject, [])
        document = dict(mark.document) if mark is not None else {}
        if not found and mark is not None and mark.run_id is not None:
            found.append(KnownRun(mark.run_id, {}, projection.start_ms, is_active=True))  # made since we looked
        if not found:
            run_id = self._store.create(experiment_id, projection)
            found.append(KnownRun(run_id, {}, projection.start_ms, is_active=True))
            document = {"tags": tags_version(projection), "name": projection.name}
        # Of several runs for one subject the one that is marked counts, else the oldest.
        run = next((run for run in found if mark is not None and run.run_id == mark.run_id), found[0])
        if not run.is_active:
            return
        if mark is not None and mark.run_id != run.run_id:
            document = {}
        subject = projection.subject
        shown = ShownRun(self._ledger, self._store, self._tracker, experiment_id, run.run_id, subject, document)
        self.points += shown.bring_up_to(projection)
        self.runs += 1


class ShownRun:
    """One run in MLflow, and the mark of what was sent to it."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        tracker: str,
        experiment_id: str,
        run_id: str,
        subject: str,
        document: dict[str, Any],
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._tracker = tracker
        self._experiment_id = experiment_id
        self._run_id = run_id
        self._subject = subject
        self._document = {**document, "experiment": experiment_id}

    def bring_up_to(self, projection: RunProjection) -> int:
        """Send what the run lacks, and return the number of points that were sent.

        Raises:
            RefusedError: MLflow did not take a part; what was sent before it is marked, and a later replay continues.
        """
        store, run_id = self._store, self._run_id
        # A trial that another sweep has taken up has the name that it has there.
        self._send("name", projection.name, lambda: store.rename(run_id, projection.name), unmarked=projection.name)
        self._send("tags", tags_version(projection), lambda: store.log_tags(run_id, projection.tags))
        # Apart from metrics: one param that conflicts makes MLflow refuse its whole request.
        self._send("params", projection.params.version, lambda: store.log_params(run_id, projection.params.render()))
        if (inputs := projection.inputs) is not None:
            self._send("inputs", inputs.version, lambda: store.log_inputs(run_id, inputs.render()))
        sent = self._send_points(projection.points)
        files: dict[str, str] = dict(self._document.get("artifacts", {}))
        new = {name: part for name, part in projection.artifacts.items() if files.get(name) != part.version}
        if new:
            store.log_files(run_id, {name: part.render() for name, part in new.items()})
            files |= {name: part.version for name, part in new.items()}
            self._advance(artifacts=files)
        if (model := projection.model) is not None and (
            self._document.get("model") != model.version or "model_id" not in self._document
        ):
            model_id = store.logged_model(self._experiment_id, run_id, model.render())
            self._advance(model=model.version, model_id=model_id)
        if (measures := projection.measures) and self._send_measures(measures):
            sent += len(measures)
        state = [projection.state, projection.end_ms]
        self._send(
            "state",
            state,
            lambda: store.set_state(run_id, projection.state, projection.end_ms),
            unmarked=[RunState.RUNNING, None],  # as MLflow creates a run
        )
        if projection.experiment_tags is not None:
            rerun = projection.identity["tunerun.sweep"] if RERUN_TAG in projection.identity else ""
            tags = projection.experiment_tags(self._experiment_id, run_id)
            store.tag_experiment(self._experiment_id, tags, rerun)
        self._advance(**projection.remembered)
        self._send_written(projection)
        self._advance(seen=projection.seen)
        return sent

    def _send(self, part: str, version: object, write: Callable[[], None], unmarked: object = None) -> None:
        """Write one part of the run if its version is not the marked one, then mark it.

        Args:
            unmarked: the version of a run whose mark does not have the part.
        """
        if self._document.get(part, unmarked) == version:
            self._document[part] = version  # written with the mark that follows
        else:
            write()
            self._advance(**{part: version})

    def _advance(self, **parts: object) -> None:
        self._document |= parts
        self._ledger.set_mark(self._tracker, self._subject, Mark(self._run_id, self._document))

    def _send_points(self, points: Sequence[MetricPoint]) -> int:
        # A step may come again with a later time: a trial that a later sweep measures in another way. Marks of an
        # earlier tunerun hold the step alone.
        marked = self._document.get("points", {}).items()
        last = {key: tuple(at) if isinstance(at, list) else (at, math.inf) for key, at in marked}
        new = [p for p in points if (p.step, p.time_ms) > last.get(p.key, (-1, 0))]
        for start in range(0, len(new), PAGE):
            page = new[start : start + PAGE]
            self._store.log_points(self._run_id, page)
            last |= {p.key: (p.step, p.time_ms) for p in page}
            self._advance(points={key: list(at) for key, at in last.items() if math.inf not in at})
        return len(new)

    def _send_measures(self, measures: Sequence[SingleMetric]) -> bool:
        """Send all single values when one is new or the model is, to which each is linked; whether they were sent."""
        model_id = self._document.get("model_id")
        version = digest([[asdict(measure) | {"value": str(measure.value)} for measure in measures], model_id])
        if self._document.get("measures") == version:
            return False
        self._store.log_measures(self._run_id, measures, model_id)
        self._advance(measures=version)
        return True

    def _send_written(self, projection: RunProjection) -> None:
        """Send large files, after everything else: where MLflow does not take them, the rest is shown all the same.

        Raises:
            RefusedError: it did not take one, or was too slow.
        """
        sent = dict(self._document.get("artifacts", {}))
        for name, files in projection.written.items():
            if sent.get(name) != files.version:
                try:
                    self._store.log_written(self._run_id, files.write)
                except (RefusedError, BusyError, DamagedError):
                    raise
                except TrackingError as error:  # not a reason to stop the runs of the other trials
                    raise RefusedError(str(error)) from error
                sent |= {name: files.version}
                self._advance(artifacts=sent)


def tags_version(projection: RunProjection) -> str:
    """The version of a run's tags: their digest."""
    return digest(dict(projection.tags))


def _seen(mark: Mark | None) -> object:
    return mark.document.get("seen") if mark is not None else None
