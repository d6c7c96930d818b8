"""The trials, points and baselines of sweeps, with their scores on one held-out set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tunerun.baselines import is_base_model
from tunerun.comparison.arms import estimate
from tunerun.comparison.knowledge import HeldOutRows, Scores, SweepKnowledge, result, rows_of
from tunerun.comparison.results import Estimate, Stopped, TrialResult
from tunerun.errors import MetricError
from tunerun.job import JobState
from tunerun.ledger import BaselineRecord, Ledger, Stop, TrialRecord, stopped_by
from tunerun.metrics import Asks, Metric
from tunerun.metrics.base import FloatArray
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.replicates import point_numbers

VALIDATION, TEST = "validation", "test"


@dataclass(frozen=True)
class MeasuredPoint:
    """A point and its trials.

    Attributes:
        places: of its trials among all trials.
        records: of the same trials.
    """

    number: int
    places: tuple[int, ...]
    records: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class MeasuredBaseline:
    """A baseline and the trials that are compared with it.

    Attributes:
        name: as tables show it; with the sweep's id where two sweeps have different baselines of one name.
        places, records: of the trials.
        loss: validation loss that a backend measured before it tuned; None: not measured, or not the base model.
        rows: the held-out rows of the trials, under each template that differs.
    """

    record: BaselineRecord
    name: str
    places: tuple[int, ...]
    records: tuple[TrialRecord, ...]
    loss: float | None
    rows: tuple[HeldOutRows, ...]


@dataclass(frozen=True)
class Measurements:
    """What the ledger holds about sweeps that are compared, on one held-out set.

    Attributes:
        sweeps: the sweep itself first.
        metrics: the one that decides first; empty: only losses are compared.
        held_out: `validation` or `test`.
        alpha: of the intervals.
    """

    ledger: Ledger
    sweeps: Sequence[SweepKnowledge]
    metrics: Sequence[Metric]
    scores: Scores
    held_out: str
    alpha: float

    # Trials, points and baselines

    @cached_property
    def entries(self) -> list[tuple[SweepKnowledge, TrialRecord]]:
        """Every trial once, with the sweep that it belongs to.

        A trial that a later sweep shares, measured on the same rows, is the first sweep's.
        """
        # The digest of the held-out set is part of the name: the same trial in a sweep over other rows is shown again.
        # Within the first sweep two trials with one key are both shown.
        shown: set[tuple[str, str | None]] = set()
        entries = []
        for place, sweep in enumerate(self.sweeps):
            names = [(record, (record.key, record.held_out.get(self.held_out))) for record in sweep.records]
            entries += [(sweep, record) for record, name in names if place == 0 or name not in shown]
            shown |= {name for _, name in names}
        return entries

    @cached_property
    def points(self) -> list[MeasuredPoint]:
        """The points of every sweep, numbered from 0 across sweeps."""
        points: list[MeasuredPoint] = []
        start = 0
        for sweep in self.sweeps:
            records = [record for owner, record in self.entries if owner is sweep]
            members: dict[int, list[int]] = {}
            for index, number in enumerate(point_numbers(record.overrides for record in records)):
                members.setdefault(number, []).append(index)
            for indexes in members.values():
                places = tuple(start + index for index in indexes)
                points.append(MeasuredPoint(len(points), places, tuple(records[index] for index in indexes)))
            start += len(records)
        return points

    @cached_property
    def trials(self) -> tuple[TrialResult, ...]:
        """The result of every trial, in the order of `entries`."""
        point_of = {place: point.number for point in self.points for place in point.places}
        results = []
        for place, (sweep, record) in enumerate(self.entries):
            job = sweep.jobs.get(record.key)
            rows = rows_of(record, self.held_out)
            trial = result(
                record,
                job,
                sweep.curves.get(job.id, ()) if job is not None else (),
                {} if rows is None else self.scores.values(self.metrics, record.key, rows),
                validation=sweep.validation.get(job.id, ()) if job is not None else (),
                point=point_of[place],
                sweep=sweep.sweep.id,
            )
            results.append(replace(trial, is_stopped=self._stop_of(sweep, record) is not None))
        return tuple(results)

    @cached_property
    def baselines(self) -> list[MeasuredBaseline]:
        """The baselines of the trials, each subject once."""
        baselines: dict[str, MeasuredBaseline] = {}
        names: set[str] = set()
        for sweep in self.sweeps:
            for record in sweep.baselines:
                places = [place for place, (_, trial) in enumerate(self.entries) if record.subject in trial.baselines]
                if record.subject in baselines or not places:
                    continue
                name = record.name if record.name not in names else f"{record.name} of {sweep.sweep.id}"
                names.add(name)
                records = tuple(self.entries[place][1] for place in places)
                loss = sweep.base_loss(record.subject) if is_base_model(record.kind) else None
                each_rows = (rows_of(member, self.held_out) for member in records)
                rows = tuple(dict.fromkeys(rows for rows in each_rows if rows is not None))
                baselines[record.subject] = MeasuredBaseline(record, name, tuple(places), records, loss, rows)
        return list(baselines.values())

    # Points that were stopped early

    def _stop_of(self, sweep: SweepKnowledge, record: TrialRecord) -> Stop | None:
        """Why a trial's own sweep stopped its evaluation; None: it did not, or another sweep measured the rest."""
        # Complete answers outrank a stop: a later sweep without evaluation.stop_early may have asked for the rest.
        rows = rows_of(record, VALIDATION)
        if self.held_out != VALIDATION or rows is None or self.scores.texts(record.key, rows) is not None:
            return None
        stored = sweep.answers.get((record.key, rows.held_out, stopped_by(sweep.sweep.id, rows.asked)))
        return None if stored is None else Stop.of(stored.texts)

    @cached_property
    def stops(self) -> dict[int, Stopped]:
        """The points that were decided to be worse before all rows were answered, by number."""
        stopped: dict[int, Stopped] = {}
        point_of = {self.entries[place][1].key: point.number for point in self.points for place in point.places}
        for point in self.points:
            stops = [stop for place in point.places if (stop := self._stop_of(*self.entries[place])) is not None]
            rows = rows_of(point.records[0], VALIDATION)
            if stops and rows is not None:
                # Seeds of a point may have been stopped at different rows; what is shown is of the rows of all.
                least = min(stop.rows for stop in stops)
                of = len(self.scores.expected(rows.held_out))
                better = point_of.get(stops[0].better)
                stopped[point.number] = Stopped(least, of, better, stops[0].e_value, stops[0].needed)
        return stopped

    # The score table

    def tables(self, metric: Metric, point: MeasuredPoint) -> list[FloatArray]:
        """The scores of each trial of a point that succeeded and has answered, [rows, m].

        Trials with the same key are one job, and count once.
        """
        tables = {}
        for place, record in zip(point.places, point.records, strict=True):
            rows = rows_of(record, self.held_out)
            if rows is None or self.trials[place].state is not JobState.SUCCEEDED:
                continue
            table = self._kept_of(metric, self.scores.of(metric, record.key, rows))
            if table is not None:
                tables[record.key] = table
        return list(tables.values())

    def baseline_table(self, metric: Metric, baseline: MeasuredBaseline) -> FloatArray | None:
        """The scores of a baseline under the first template for which it is measured, [rows, m]; None: for none."""
        tables = (self.scores.of(metric, baseline.record.subject, rows) for rows in baseline.rows)
        return self._kept_of(metric, next((table for table in tables if table is not None), None))

    @cached_property
    def kept_rows(self) -> dict[str, NDArray[np.bool_]]:
        """By a judged metric's name, which rows have a score of every model; missing for a metric where all rows have.

        Only a judge's replies may be unreadable, so only its metrics can lack the score of a row.
        """
        subjects = [(record.key, rows_of(record, self.held_out)) for _, record in self.entries]
        subjects += [(baseline.record.subject, rows) for baseline in self.baselines for rows in baseline.rows]
        kept = {}
        for metric in self.metrics:
            if not isinstance(metric, JudgedMetric):
                continue
            answered = (self.scores.of(metric, subject, rows) for subject, rows in subjects if rows is not None)
            tables = [table for table in answered if table is not None]
            same = [table for table in tables if table.shape == tables[0].shape]
            missing = np.isnan(np.hstack(same)) if same else np.zeros((0, 0), dtype=np.bool_)
            if np.any(missing):
                kept[metric.name] = ~np.any(missing, axis=1)
        return kept

    def _kept_of(self, metric: Metric, table: FloatArray | None) -> FloatArray | None:
        # A paired test needs a score of both models on each row, so a row that lacks one is left out for all of them.
        kept = self.kept_rows.get(metric.name)
        if table is None or kept is None or len(kept) != len(table):
            return table
        return table[kept] if kept.any() else None

    def clusters(self, metric: Metric) -> list[int] | None:
        """The cluster of each row that a metric has a score for; None: every row is its own."""
        digest = self.compared[0].records[0].held_out[self.held_out]
        documents = [sweep.sweep.document.get("clusters", {}) for sweep in self.sweeps]
        clusters = next((list(each[digest]) for each in documents if digest in each), None)
        kept = self.kept_rows.get(metric.name)
        if clusters is None or kept is None or len(kept) != len(clusters):
            return clusters
        return [cluster for cluster, is_kept in zip(clusters, kept, strict=True) if is_kept]

    # What is compared

    @property
    def has_held_out(self) -> bool:
        """Whether a trial has rows in this held-out set."""
        return any(self.held_out in record.held_out for _, record in self.entries)

    @cached_property
    def opened(self) -> set[str] | None:
        """Keys of the trials for which the test set was opened last; None: it is the validation set that counts."""
        if self.held_out != TEST:
            return None
        openings = [
            opening
            for sweep in self.sweeps
            for opening in self.ledger.openings(sweep.sweep.id)
            if opening.sweep == sweep.sweep.id
        ]
        if not openings:
            return set()
        # A point that was chosen after an earlier opening has already seen these rows; a note says so.
        last = max(openings, key=lambda opening: opening.opened_at)
        records = next(sweep.records for sweep in self.sweeps if sweep.sweep.id == last.sweep)
        return {record.key for record in records if record.number in last.points}

    @cached_property
    def compared(self) -> list[MeasuredPoint]:
        """Points with answers; on the test set only the one that was named before it was opened.

        Testing others on it would choose among points again, on the rows that were kept for one look.
        """
        if not self.metrics:
            return []
        return [
            point
            for point in self.points
            if self.tables(self.metrics[0], point)
            and point.number not in self.stops
            and (self.opened is None or any(record.key in self.opened for record in point.records))
        ]

    @cached_property
    def rows_differ(self) -> bool:
        """Whether compared points were measured on different rows, so that no pair of them can be tested."""
        digests = {record.held_out.get(self.held_out) for point in self.compared for record in point.records}
        documents = [sweep.sweep.document.get("held_out_rows", {}) for sweep in self.sweeps]

        def identity(digest: str) -> object:
            # The same rows under two templates are two example sets: the plan names the rows behind them. Plans of old
            # versions do not, and there the expected answers have to be the same.
            return next(filter(None, (rows.get(digest) for rows in documents)), None) or self.scores.expected(digest)

        # The columns of a corpus metric follow from the expected labels, so other labels make another shape.
        tables = [table for point in self.compared for table in self.tables(self.metrics[0], point)]
        return (
            len({identity(digest) for digest in digests if digest is not None}) > 1
            or len({table.shape for table in tables}) > 1
        )

    # Measures of points and baselines

    def estimate(self, metric: Metric, tables: Sequence[FloatArray]) -> Estimate | None:
        """A metric of some seeds' scores with its interval; None: there are none, or they are of different rows."""
        if not tables or len({table.shape for table in tables}) > 1:
            return None
        clusters = self.clusters(metric) if self.compared and not self.rows_differ else None
        return estimate(metric, np.stack(tables), clusters, self.alpha)

    def point_estimate(self, metric: Metric, point: MeasuredPoint) -> Estimate | None:
        """A metric of a point; of one that was stopped early, on the rows that all of its trials have answered."""
        stopped = self.stops.get(point.number)
        if stopped is None:
            return self.estimate(metric, self.tables(metric, point))
        if isinstance(metric, JudgedMetric) or metric.asks is Asks.LOSSES:
            return None
        tables: dict[str, FloatArray] = {}
        for place, record in zip(point.places, point.records, strict=True):
            rows = rows_of(record, VALIDATION)
            stop = self._stop_of(*self.entries[place])
            texts = None if rows is None else stop.texts if stop is not None else self.scores.texts(record.key, rows)
            if rows is not None and texts is not None and self.trials[place].state is JobState.SUCCEEDED:
                expected = self.scores.expected(rows.held_out)[: stopped.rows]
                try:
                    tables[record.key] = metric.rows(expected, texts[: stopped.rows])
                except MetricError:  # a user's own code; it is not what decides, for that has scored these rows
                    return None
        if not tables:
            return None
        partial = estimate(metric, np.stack([*tables.values()]), None, self.alpha)
        return replace(partial, rows=stopped.rows)

    def texts(self, point: MeasuredPoint) -> list[tuple[str, ...]]:
        """The answers of each trial of a point that has answered; trials with the same key count once."""
        rows = [(record.key, rows_of(record, self.held_out)) for record in point.records]
        texts_of = {key: self.scores.texts(key, each) for key, each in rows if each is not None}
        return [texts for texts in texts_of.values() if texts is not None]

    def answer_length(self, point: MeasuredPoint) -> float | None:
        """Characters of a point's answers, on average; None: there are none."""
        texts = [text for texts in self.texts(point) for text in texts]
        return sum(map(len, texts)) / len(texts) if texts else None

    def unjudged(self, metric: Metric) -> list[str]:
        """The trials and baselines that have answered, and whose answers a judge has not scored."""
        subjects = [(f"trial {r.number}", r.key, [rows_of(r, self.held_out)]) for _, r in self.entries]
        subjects += [(each.name, each.record.subject, list(each.rows)) for each in self.baselines]
        return [
            name
            for name, subject, ways in subjects
            if any(rows is not None and self.scores.texts(subject, rows) is not None for rows in ways)
            and all(rows is None or self.scores.of(metric, subject, rows) is None for rows in ways)
        ]
