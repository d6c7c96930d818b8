"""The ledger's answers, scored and decided: which point of one sweep or of several to use."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunerun.baselines import is_base_model, words
from tunerun.comparison import judges, sentences
from tunerun.comparison.arms import BaselineScores, PointScores, estimate
from tunerun.comparison.decision import Comparison, Rules, decide
from tunerun.comparison.knowledge import HeldOutRows, Scores, SweepKnowledge, result, rows_of
from tunerun.comparison.results import (
    LOSS,
    BaselineResult,
    Decision,
    Estimate,
    Measure,
    Outcome,
    PointResult,
    Stopped,
    TrialResult,
    Verdict,
)
from tunerun.errors import InputError, MetricError
from tunerun.job import JobState
from tunerun.ledger import BaselineRecord, Ledger, Stop, SweepRecord, TrialRecord, stopped_by
from tunerun.metrics import Asks, Metric, Unit, resolve, resolve_stored
from tunerun.metrics.base import FloatArray
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.replicates import point_numbers, without_seed
from tunerun.statistics import consistency
from tunerun.stored import section

VALIDATION, TEST = "validation", "test"

_LOSS = Measure(LOSS, Unit.NATS, higher_is_better=False)


def judge(
    ledger: Ledger,
    sweep: SweepRecord | Sequence[SweepRecord],
    *,
    evaluation: Any = None,
    held_out: str = VALIDATION,
    seed: int = 0,
) -> Verdict:
    """Compare the points of a sweep, or of several, with their baselines and each other, as far as the ledger knows.

    Args:
        sweep: one, or several that were measured on the same held-out rows.
        evaluation: the section whose metrics, alpha and worth count; None: the one frozen with the first sweep.
        held_out: `validation`; `test`: the point for which the test set was opened last, against the baselines.
        seed: of flips and resamples.

    Raises:
        InputError: the sweeps were measured on different rows.
        ConfigError: the metric that decides is not known to this version, or its file is gone or has changed.
        MetricError: the code of the metric that decides fails; what others lack is a note.
    """
    sweeps = (sweep,) if isinstance(sweep, SweepRecord) else tuple(sweep)
    known = [SweepKnowledge.of(ledger, each) for each in sweeps]
    if evaluation is None:
        stored = known[0].records[0].settings.evaluation
        files = known[0].sweep.document.get("metrics", {})
        metrics, notes = resolve_stored(stored, files, runs_code=not ledger.is_restored)
        rules = Rules(stored.get("alpha", 0.05), stored.get("worth", 0.0), seed=seed)
    else:
        metrics, notes = resolve(evaluation), []
        rules = Rules(evaluation.alpha, evaluation.worth, seed=seed)
    document = known[0].sweep.document if evaluation is None else {}
    answers = {key: found for each in known for key, found in each.answers.items()}
    scores = Scores(answers, ledger, judges.identities_of(metrics, document))
    kept, failed = scores.computable(metrics)
    if metrics and metrics[0].name in failed:
        raise failed[metrics[0].name]
    notes += [f"{name} is not computed: {error}." for name, error in failed.items()]
    frozen = section(document, "judges")
    return _Judge(ledger, known, kept, rules, held_out, scores, tuple(notes), frozen).verdict


@dataclass(frozen=True)
class _Point:
    """A point, and where its trials are among all."""

    number: int
    places: tuple[int, ...]
    records: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class _Baseline:
    """A baseline, and the trials that are compared with it."""

    record: BaselineRecord
    name: str
    members: tuple[TrialRecord, ...]
    places: tuple[int, ...]
    loss: float | None


@dataclass(frozen=True)
class _Judge:
    ledger: Ledger
    known: Sequence[SweepKnowledge]
    metrics: Sequence[Metric]
    rules: Rules
    held_out: str
    scores: Scores
    notes: tuple[str, ...]
    judges: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        reason = self._reason
        comparison = None if reason is not None else self._comparison
        points = self._point_results(comparison)
        notes: tuple[str, ...] = ()
        if comparison is None:
            decision, sentence = self._undecided, reason or ""
        else:
            decision = self._decision(comparison)
            case = sentences.Case(decision, self._measures[0], points, self._compared_numbers, self._measurable)
            sentence, notes = sentences.sentence(case), sentences.notes(case)
            if self.held_out == TEST:
                sentence = sentences.on_the_test_set(sentence)
        unfinished = sum(not trial.state.is_finished for trial in self._trials)
        return Verdict(
            sweeps=tuple(each.sweep for each in self.known),
            trials=self._trials,
            points=points,
            baselines=tuple(self._baseline_results),
            measures=self._measures,
            decision=decision,
            sentence=sentences.so_far(sentence, unfinished, len(self._trials)) if unfinished else sentence,
            held_out=self.held_out,
            notes=(*notes, *self._other_notes, *self.notes),
        )

    # Trials, points and baselines

    @cached_property
    def _entries(self) -> list[tuple[SweepKnowledge, TrialRecord]]:
        """Every trial once: one that a later sweep shares, measured on the same rows, is that of the first."""
        seen: set[tuple[str, str | None]] = set()
        entries = []
        for place, each in enumerate(self.known):
            names = [(record, (record.key, record.held_out.get(self.held_out))) for record in each.records]
            entries += [(each, record) for record, name in names if place == 0 or name not in seen]
            seen |= {name for _, name in names}
        return entries

    @cached_property
    def _points(self) -> list[_Point]:
        points: list[_Point] = []
        place = 0
        for each in self.known:
            records = [record for owner, record in self._entries if owner is each]
            members: dict[int, list[int]] = {}
            for index, number in enumerate(point_numbers(record.overrides for record in records)):
                members.setdefault(number, []).append(index)
            points += [
                _Point(
                    len(points) + offset,
                    tuple(place + index for index in indexes),
                    tuple(records[index] for index in indexes),
                )
                for offset, indexes in enumerate(members.values())
            ]
            place += len(records)
        return points

    @cached_property
    def _trials(self) -> tuple[TrialResult, ...]:
        point_of = {place: point.number for point in self._points for place in point.places}
        results = []
        for place, (each, record) in enumerate(self._entries):
            job = each.jobs.get(record.key)
            rows = rows_of(record, self.held_out)
            measured = {} if rows is None else self.scores.values(self.metrics, record.key, rows)
            curve = each.curves.get(job.id, ()) if job is not None else ()
            held_out = each.validation.get(job.id, ()) if job is not None else ()
            point = point_of[place]
            found = result(record, job, curve, measured, validation=held_out, point=point, sweep=each.sweep.id)
            results.append(replace(found, is_stopped=self._stop_of(each, record) is not None))
        return tuple(results)

    def _stop_of(self, each: SweepKnowledge, record: TrialRecord) -> Stop | None:
        """Why a trial's sweep asked it no more; None: it did, or another sweep has asked for the rest."""
        rows = rows_of(record, VALIDATION)
        if self.held_out != VALIDATION or rows is None or self.scores.texts(record.key, rows) is not None:
            return None
        found = each.answers.get((record.key, rows.held_out, stopped_by(each.sweep.id, rows.asked)))
        return None if found is None else Stop.of(found.texts)

    @cached_property
    def _stops(self) -> dict[int, Stopped]:
        """The points that were decided to be worse before all rows were answered, by number."""
        found: dict[int, Stopped] = {}
        point_of = {self._entries[place][1].key: point.number for point in self._points for place in point.places}
        for point in self._points:
            stops = [stop for place in point.places if (stop := self._stop_of(*self._entries[place])) is not None]
            if stops:
                rows = rows_of(point.records[0], VALIDATION)
                assert rows is not None  # noqa: S101 - answers to it stopped
                least = min(stop.rows for stop in stops)
                better = point_of.get(stops[0].better)
                of = len(self.scores.expected(rows.held_out))
                found[point.number] = Stopped(least, of, better, stops[0].e_value, stops[0].needed)
        return found

    @cached_property
    def _baselines(self) -> list[_Baseline]:
        """Those of the trials that are compared: each subject once."""
        found: dict[str, _Baseline] = {}
        names: set[str] = set()
        for each in self.known:
            for record in each.baselines:
                places = [place for place, (_, trial) in enumerate(self._entries) if record.subject in trial.baselines]
                if record.subject in found or not places:
                    continue
                name = record.name if record.name not in names else f"{record.name} of {each.sweep.id}"
                names.add(name)
                members = tuple(self._entries[place][1] for place in places)
                loss = each.base_loss(record.subject) if is_base_model(record.kind) else None
                found[record.subject] = _Baseline(record, name, members, tuple(places), loss)
        return list(found.values())

    # Held-out rows

    @property
    def _has_held_out(self) -> bool:
        return any(self.held_out in record.held_out for _, record in self._entries)

    def _identity(self, digest: str) -> object:
        """What is the same of two held-out sets that have the same rows under different templates."""
        rows = (each.sweep.document.get("held_out_rows", {}).get(digest) for each in self.known)
        return next(filter(None, rows), None) or self.scores.expected(digest)

    @cached_property
    def _rows_differ(self) -> bool:
        digests = {record.held_out.get(self.held_out) for point in self._compared for record in point.records}
        tables = [table for point in self._compared for table in self._tables(self.metrics[0], point)]
        return (
            len({self._identity(digest) for digest in digests if digest is not None}) > 1
            or len({table.shape for table in tables}) > 1
        )

    def _clusters_of(self, metric: Metric) -> list[int] | None:
        """The cluster of each row that a metric has a score for."""
        clusters, kept = self._clusters, self._kept(metric)
        if clusters is None or kept is None or len(kept) != len(clusters):
            return clusters
        return [cluster for cluster, is_kept in zip(clusters, kept, strict=True) if is_kept]

    @cached_property
    def _clusters(self) -> list[int] | None:
        digest = self._compared[0].records[0].held_out[self.held_out]
        for each in self.known:
            if digest in each.sweep.document.get("clusters", {}):
                return list(each.sweep.document["clusters"][digest])
        return None

    # Scores

    def _tables(self, metric: Metric, point: _Point) -> list[FloatArray]:
        """Of each of a point's trials that has succeeded and answered; trials that are one job count once."""
        tables = {}
        for place, record in zip(point.places, point.records, strict=True):
            rows = rows_of(record, self.held_out)
            is_done = self._trials[place].state is JobState.SUCCEEDED
            table = self.scores.of(metric, record.key, rows) if is_done and rows is not None else None
            table = None if table is None else self._scored(metric, table)
            if table is not None:
                tables[record.key] = table
        return list(tables.values())

    def _scored(self, metric: Metric, table: FloatArray) -> FloatArray | None:
        """The rows for which every model has a score: all are compared on the same ones; None: there are none."""
        kept = self._kept(metric)
        if kept is None or len(kept) != len(table):
            return table
        return table[kept] if kept.any() else None

    def _kept(self, metric: Metric) -> NDArray[np.bool_] | None:
        """Which rows have a score of every model; None: all have, for only a judge's words may be unreadable."""
        if not isinstance(metric, JudgedMetric):
            return None
        if metric.name not in self._kept_rows:
            asked = [(record.key, rows_of(record, self.held_out)) for _, record in self._entries]
            asked += [(each.record.subject, rows) for each in self._baselines for rows in self._rows_of(each)]
            found = (self.scores.of(metric, subject, rows) for subject, rows in asked if rows is not None)
            tables = [table for table in found if table is not None]
            same = [table for table in tables if table.shape == tables[0].shape]
            missing = np.isnan(np.hstack(same)) if same else np.zeros((0, 0), dtype=np.bool_)
            self._kept_rows[metric.name] = ~np.any(missing, axis=1) if np.any(missing) else None
        return self._kept_rows[metric.name]

    @cached_property
    def _kept_rows(self) -> dict[str, NDArray[np.bool_] | None]:
        return {}

    def _baseline_table(self, metric: Metric, baseline: _Baseline) -> FloatArray | None:
        for rows in self._rows_of(baseline):
            table = self.scores.of(metric, baseline.record.subject, rows)
            if table is not None:
                return self._scored(metric, table)
        return None

    def _rows_of(self, baseline: _Baseline) -> Iterator[HeldOutRows]:
        found = (rows_of(member, self.held_out) for member in baseline.members)
        yield from dict.fromkeys(rows for rows in found if rows is not None)

    def _estimate(self, metric: Metric, tables: Sequence[FloatArray]) -> Estimate | None:
        if not tables or len({table.shape for table in tables}) > 1:
            return None
        clusters = self._clusters_of(metric) if self._compared and not self._rows_differ else None
        return estimate(metric, np.stack(tables), clusters, self.rules.alpha)

    # The decision

    @cached_property
    def _opened(self) -> set[str] | None:
        """Keys of the trials for which the test set was opened last; None: it is the validation set that counts."""
        if self.held_out != TEST:
            return None
        openings = [o for each in self.known for o in self.ledger.openings(each.sweep.id) if o.sweep == each.sweep.id]
        if not openings:
            return set()
        last = max(openings, key=lambda opening: opening.opened_at)
        records = next(each.records for each in self.known if each.sweep.id == last.sweep)
        return {record.key for record in records if record.number in last.points}

    @cached_property
    def _compared(self) -> list[_Point]:
        """Points with answers: of the test set, the one that was named before it was opened."""
        if not self.metrics:
            return []
        return [
            point
            for point in self._points
            if self._tables(self.metrics[0], point)
            and point.number not in self._stops
            and (self._opened is None or any(record.key in self._opened for record in point.records))
        ]

    @property
    def _compared_numbers(self) -> list[int]:
        return [point.number for point in self._compared]

    @cached_property
    def _reason(self) -> str | None:
        """Why nothing is compared; None: something is."""
        if not any(trial.state is JobState.SUCCEEDED for trial in self._trials):
            return sentences.no_success([trial.state for trial in self._trials])
        if not self._has_held_out:
            return sentences.NOTHING_HELD_OUT if self.held_out == VALIDATION else sentences.NO_TEST_SET
        if self._opened is not None and not self._opened:
            return sentences.TEST_SET_IS_CLOSED
        if not self.metrics:
            return sentences.only_loss(self._point_results(None), LOSS)
        if not self._compared:
            return sentences.not_measured(self._measures[0])
        if self._rows_differ:
            if len(self.known) > 1:
                ids = sentences.listed_words([each.sweep.id for each in self.known])
                raise InputError(
                    f"{ids} were measured on different held-out rows, so they cannot be compared; "
                    "name sweeps over the same dataset.validation rows, or compare each alone"
                )
            return sentences.different_rows()
        return None

    @cached_property
    def _comparison(self) -> Comparison:
        metric = self.metrics[0]
        points = [
            PointScores(
                point.number,
                np.stack(self._tables(metric, point)),
                point.records[0].tokens,
                point.records[0].settings.hyperparameters.adapter_rank,
                self._answer_length(point),
            )
            for point in self._compared
        ]
        tables = [(each.name, self._baseline_table(metric, each)) for each in self._baselines]
        shape = points[0].scores.shape[1:]
        baselines = [BaselineScores(name, t) for name, t in tables if t is not None and t.shape == shape]
        return decide(metric, points, baselines, self._clusters_of(metric), self.rules)

    def _decision(self, comparison: Comparison) -> Decision:
        """The decision; where baselines are there and none is measured, none of the points is advised."""
        decision = comparison.decision
        if self._measurable and decision.outcome is Outcome.NONE:
            return replace(decision, advised=None)
        return decision

    @property
    def _undecided(self) -> Decision:
        metric = self._measures[0].name if self._measures else None
        return Decision(Outcome.NONE, metric=metric, alpha=self.rules.alpha, worth=self.rules.worth)

    # What the verdict shows

    @cached_property
    def _measures(self) -> tuple[Measure, ...]:
        if not self._has_held_out:
            return ()
        if not self.metrics:
            return (_LOSS,) if any(LOSS in trial.metrics for trial in self._trials) else ()
        return tuple(Measure(f"eval/{m.name}", m.unit, m.higher_is_better) for m in self.metrics)

    def _point_results(self, comparison: Comparison | None) -> tuple[PointResult, ...]:
        results = [self._point_result(point) for point in self._points]
        if comparison is None:
            return tuple(results)
        tied = set(comparison.decision.tied)
        for number, against, tied_p in zip(
            self._compared_numbers, comparison.differences, comparison.tied_p, strict=True
        ):
            results[number] = replace(results[number], against=against, is_tied=number in tied, tied_p=tied_p)
        return tuple(results)

    def _point_result(self, point: _Point) -> PointResult:
        first = point.records[0]
        found = {f"eval/{metric.name}": self._point_estimate(metric, point) for metric in self.metrics}
        estimates = {name: each for name, each in found.items() if each is not None}
        trials = [self._trials[place] for place in point.places]
        losses = [trial.metrics[LOSS] for trial in trials if LOSS in trial.metrics]
        if losses:
            spread = float(np.std(losses, ddof=1)) if len(losses) > 1 else None
            estimates[LOSS] = Estimate(float(np.mean(losses)), spread=spread, seeds=len(losses))
        answers = [texts for texts in {r.key: self._texts(r) for r in point.records}.values() if texts is not None]
        return PointResult(
            number=point.number,
            overrides=without_seed(first.overrides),
            trials=point.places,
            estimates=estimates,
            consistency=consistency(answers) if len(answers) > 1 and len(set(map(len, answers))) == 1 else None,
            tokens=first.tokens,
            rank=first.settings.hyperparameters.adapter_rank,
            answer_length=self._answer_length(point),
            stopped=self._stops.get(point.number),
        )

    def _point_estimate(self, metric: Metric, point: _Point) -> Estimate | None:
        """Of a point; of one that stopped early on the rows that all of its trials have answered."""
        stopped = self._stops.get(point.number)
        if stopped is None:
            return self._estimate(metric, self._tables(metric, point))
        if isinstance(metric, JudgedMetric) or metric.asks is Asks.LOSSES:
            return None
        tables: dict[str, FloatArray] = {}
        for place, record in zip(point.places, point.records, strict=True):
            rows = rows_of(record, VALIDATION)
            stop = self._stop_of(*self._entries[place])
            texts = None if rows is None else stop.texts if stop is not None else self.scores.texts(record.key, rows)
            if rows is not None and texts is not None and self._trials[place].state is JobState.SUCCEEDED:
                expected = self.scores.expected(rows.held_out)[: stopped.rows]
                try:
                    tables[record.key] = metric.rows(expected, texts[: stopped.rows])
                except MetricError:  # a user's own code; it is not what decides, for that has scored these rows
                    return None
        if not tables:
            return None
        found = estimate(metric, np.stack([*tables.values()]), None, self.rules.alpha)
        return replace(found, rows=stopped.rows)

    def _texts(self, record: TrialRecord) -> tuple[str, ...] | None:
        rows = rows_of(record, self.held_out)
        return None if rows is None else self.scores.texts(record.key, rows)

    def _answer_length(self, point: _Point) -> float | None:
        texts = [text for record in point.records for text in self._texts(record) or ()]
        return sum(map(len, texts)) / len(texts) if texts else None

    @cached_property
    def _baseline_results(self) -> list[BaselineResult]:
        results = []
        for each in self._baselines:
            estimates: dict[str, Estimate] = {}
            for metric in self.metrics:
                table = self._baseline_table(metric, each)
                found = None if table is None else self._estimate(metric, [table])
                if found is not None:
                    estimates[f"eval/{metric.name}"] = found
            if each.loss is not None:
                estimates[LOSS] = Estimate(each.loss)
            document = each.record.document
            results.append(
                BaselineResult(
                    name=each.name,
                    subject=each.record.subject,
                    model=str(document.get("model", each.members[0].settings.model)),  # absent in old ledgers
                    trials=each.places,
                    estimates=estimates,
                    problem=document.get("problem"),
                    words=self._words(each),
                )
            )
        return results

    def _words(self, baseline: _Baseline) -> str:
        """What a sentence calls it; with its name where the words alone are those of several."""
        text = words(baseline.record.kind, baseline.record.document)
        alike = [each for each in self._baselines if words(each.record.kind, each.record.document) == text]
        return f"{text} ({baseline.name})" if text and len(alike) > 1 else text

    @property
    def _measurable(self) -> list[BaselineResult]:
        """Those that the metric that decides can measure: an answer that is always given has no losses."""
        asks_losses = self.metrics[0].asks is Asks.LOSSES
        return [each for each in self._baseline_results if each.model or not asks_losses]

    @property
    def _other_notes(self) -> Iterator[str]:
        """What does not follow from the decision."""
        if self._reason is None and len(self._compared) < len(self._points) and self.held_out == VALIDATION:
            left_out = [point.number for point in self._points if point not in self._compared]
            missing = [str(number) for number in left_out if number not in self._stops]
            few = len(missing) <= sentences.MOST_NAMED
            if missing:
                which = sentences.listed_words(missing) if few else f"{len(missing)} of them"
                yield f"Not compared, for they have no answers: points {which}."
        if self._stops:
            yield sentences.stopped_early(self._stops, self.rules.alpha)
        shared = sum(len(each.records) for each in self.known) - len(self._entries)
        if shared:
            yield f"Trials that several of the sweeps share are shown once ({shared} of them)."
        if self.held_out == TEST:
            openings = {o.opened_at for each in self.known for o in self.ledger.openings(each.sweep.id)}
            if len(openings) > 1:
                days = [time.strftime("%Y-%m-%d", time.gmtime(at)) for at in sorted(openings)]
                yield sentences.opened_again(days)
        for metric in self.metrics:
            if isinstance(metric, JudgedMetric):
                yield from self._judge_notes(metric)

    def _judge_notes(self, metric: JudgedMetric) -> Iterator[str]:
        kept = self._kept(metric)
        return judges.notes(
            metric,
            self.ledger,
            section(self.judges, metric.name),
            [record for _, record in self._entries],
            unreadable=0 if kept is None else int((~kept).sum()),
            rows=0 if kept is None else len(kept),
            unjudged=self._unjudged(metric),
        )

    def _unjudged(self, metric: Metric) -> list[str]:
        """The trials and baselines that have answered, and whose answers are not judged."""
        asked = [(f"trial {r.number}", r.key, [rows_of(r, self.held_out)]) for _, r in self._entries]
        asked += [(each.name, each.record.subject, list(self._rows_of(each))) for each in self._baselines]
        return [
            name
            for name, subject, ways in asked
            if any(rows is not None and self.scores.texts(subject, rows) is not None for rows in ways)
            and all(rows is None or self.scores.of(metric, subject, rows) is None for rows in ways)
        ]
