"""Bringing MLflow up to date with the ledger, by marks that advance only after success.

A mark says for one run what was sent: its document holds the version of each part and the last step of each metric.
Losing a mark costs time and changes nothing: every write can be repeated, and a run is looked for before it is
created. A run that a person deleted in MLflow stays deleted; one that is gone for good is made again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tunerun.digest import digest
from tunerun.ledger import Ledger, Mark
from tunerun.tracking.image import FrozenSweep, Kind, Part, Point, RunImage, RunState, trial_subject
from tunerun.tracking.store import PAGE, BusyError, DamagedError, RefusedError, Store
from tunerun.tracking.summary import summary_images, summary_seen
from tunerun.tracking.trial import trial_image, trial_seen

_BUSY_ATTEMPTS = 3
_BUSY_WAIT_S = 0.5


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
    """

    def __init__(self, ledger: Ledger, store: Store, tracker: str) -> None:
        self._ledger = ledger
        self._store = store
        self._tracker = tracker
        self._frozen: dict[str, FrozenSweep] = {}
        self._known: dict[str, dict[str, tuple[str, bool]]] = {}
        self.runs = 0
        self.points = 0

    def overdue(self) -> list[str]:
        """The sweeps that MLflow has been told of and does not show as they are now, by the ledger alone."""
        found = []
        for sweep in self._ledger.sweeps():
            marks = self._ledger.marks(self._tracker, f"{sweep.id}/")
            if marks and any(True for _ in self._images(self._frozen_sweep(sweep.id), marks)):
                found.append(sweep.id)
        return found

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
        self._store.forget()

    def _frozen_sweep(self, sweep_id: str) -> FrozenSweep:
        if sweep_id not in self._frozen:
            self._frozen[sweep_id] = FrozenSweep(self._ledger, sweep_id)
        return self._frozen[sweep_id]

    def _turn(self, sweep: FrozenSweep) -> None:
        if sweep.id not in self._known:
            self._look(sweep)
            marks = self._standing(sweep, self._ledger.marks(self._tracker, f"{sweep.id}/"))
        else:
            marks = self._ledger.marks(self._tracker, f"{sweep.id}/")
        refused: RefusedError | None = None
        for image in self._images(sweep, marks):
            try:
                self._send_patiently(sweep, image, marks.get(image.subject))
            except RefusedError as error:
                refused = refused or error
        if refused is not None:
            raise refused

    def _look(self, sweep: FrozenSweep) -> None:
        """Ask MLflow which runs of the sweep it has; of two for one subject the older counts."""
        experiment_id = self._store.experiment(sweep.record.experiment)
        known: dict[str, tuple[str, bool]] = {}
        for run in self._store.runs(experiment_id, sweep.id):
            known.setdefault(_subject_of(sweep, run.tags), (run.run_id, run.is_active))
        self._known[sweep.id] = known

    def _standing(self, sweep: FrozenSweep, marks: Mapping[str, Mark]) -> dict[str, Mark]:
        """The marks whose runs MLflow still has; the others are void, as after a rebuilt store."""
        known = self._known[sweep.id]
        return {s: mark for s, mark in marks.items() if s in known and known[s][0] == mark.run_id}

    def _images(self, sweep: FrozenSweep, marks: Mapping[str, Mark]) -> Iterator[RunImage]:
        """What is not as it should be: the sweep's own run before its trials, so that there is something to open."""
        progress = self._ledger.progress(sweep.id)
        seen = summary_seen(self._ledger, sweep, progress)
        if _seen(marks.get(sweep.subject(Kind.SWEEP))) != seen:
            # The baselines stand before the sweep's own run, whose mark says that they are done too.
            yield from summary_images(self._ledger, sweep, progress, seen)
        for trial in progress:
            now = trial_seen(trial)
            if _seen(marks.get(trial_subject(sweep.id, trial.number))) != now:
                image = trial_image(self._ledger, sweep, sweep.by_number[trial.number], now)
                if image is not None:
                    yield image

    def _send_patiently(self, sweep: FrozenSweep, image: RunImage, mark: Mark | None) -> None:
        for attempt in range(1, _BUSY_ATTEMPTS + 1):
            try:
                self._send(sweep, image, mark)
            except BusyError:
                if attempt == _BUSY_ATTEMPTS:
                    raise
                time.sleep(_BUSY_WAIT_S * attempt)
                self._look(sweep)
            else:
                return

    def _send(self, sweep: FrozenSweep, image: RunImage, mark: Mark | None) -> None:
        experiment_id = self._store.experiment(sweep.record.experiment)
        known = self._known[sweep.id]
        document = dict(mark.document) if mark is not None else {}
        if image.subject not in known and mark is not None and mark.run_id is not None:
            known[image.subject] = (mark.run_id, True)  # another process made it since we looked
        if image.subject not in known:
            known[image.subject] = (self._store.create(experiment_id, image), True)
            document = {"tags": tags_version(image)}
        run_id, is_active = known[image.subject]
        if not is_active:
            return
        if mark is not None and mark.run_id != run_id:
            document = {}
        shown = ShownRun(self._ledger, self._store, self._tracker, experiment_id, run_id, image.subject, document)
        self.points += shown.bring_up_to(image)
        self.runs += 1


class ShownRun:
    """One run in MLflow and the mark that says how far it is."""

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

    def bring_up_to(self, image: RunImage) -> int:
        """Send what the run lacks, and return the number of points among it."""
        self._send_tags(image)
        self._send_params(image.params)
        if image.inputs is not None and self._document.get("inputs") != image.inputs.version:
            self._store.log_inputs(self._run_id, image.inputs.render())
            self._advance(inputs=image.inputs.version)
        sent = self._send_points(image)
        self._send_files(image)
        if image.model is not None and self._document.get("model") != image.model.version:
            self._store.external_model(self._experiment_id, self._run_id, image.model.render())
            self._advance(model=image.model.version)
        self._send_state(image)
        self._advance(seen=image.seen)
        return sent

    def _advance(self, **parts: object) -> None:
        self._document |= parts
        self._ledger.set_mark(self._tracker, self._subject, Mark(self._run_id, self._document))

    def _send_tags(self, image: RunImage) -> None:
        version = tags_version(image)
        if self._document.get("tags") != version:
            self._store.log_tags(self._run_id, image.tags)
            self._advance(tags=version)

    def _send_params(self, params: Part[dict[str, str]]) -> None:
        if self._document.get("params") != params.version:
            self._store.log_params(self._run_id, params.render())
            self._advance(params=params.version)

    def _send_points(self, image: RunImage) -> int:
        last: dict[str, int] = defaultdict(lambda: -1, self._document.get("points", {}))
        new = [p for p in image.points if p.step > last[p.key]]
        for page in _pages(new):
            self._store.log_points(self._run_id, page)
            last |= {p.key: p.step for p in page}
            self._advance(points=dict(last))
        return len(new)

    def _send_files(self, image: RunImage) -> None:
        sent = dict(self._document.get("artifacts", {}))
        new = {name: part for name, part in image.artifacts.items() if sent.get(name) != part.version}
        if new:
            self._store.log_files(self._run_id, {name: part.render() for name, part in new.items()})
            self._advance(artifacts=sent | {name: part.version for name, part in new.items()})

    def _send_state(self, image: RunImage) -> None:
        state = [image.state, image.end_ms]
        if self._document.get("state", [RunState.RUNNING, None]) != state:
            self._store.set_state(self._run_id, image.state, image.end_ms)
        self._document["state"] = state  # written with the mark that follows


def tags_version(image: RunImage) -> str:
    """The version of a run's tags: their digest."""
    return digest(dict(image.tags))


def _pages(points: list[Point]) -> Iterator[list[Point]]:
    rest = iter(points)
    while page := list(islice(rest, PAGE)):
        yield page


def _seen(mark: Mark | None) -> object:
    return mark.document.get("seen") if mark is not None else None


def _subject_of(sweep: FrozenSweep, tags: Mapping[str, str]) -> str:
    match tags.get("tunerun.kind"):
        case Kind.TRIAL:
            return trial_subject(sweep.id, int(tags.get("tunerun.trial", "-1")))
        case Kind.BASELINE:
            return sweep.subject(Kind.BASELINE, tags.get("tunerun.key", ""))
        case _:
            return sweep.subject(Kind.SWEEP)
