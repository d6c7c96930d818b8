"""Reads sweeps from the ledger, and scores their answers, each once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tunerun.comparison.curves import advise, epoch_means, finished_epochs
from tunerun.comparison.judges import scores_of
from tunerun.comparison.results import EPOCH_LOSS, STEP_LOSS, TrialResult
from tunerun.errors import ConfigError, MetricError
from tunerun.job import EpochLoss, JobState, Snapshot
from tunerun.ledger import (
    LOSSES,
    Answers,
    BaselineRecord,
    JobRecord,
    Ledger,
    SweepRecord,
    TrialRecord,
    holds_texts,
    rated_by,
)
from tunerun.metrics import Asks, Metric, resolve_stored
from tunerun.metrics.base import FloatArray
from tunerun.metrics.judged_metric import JudgedMetric

BASE_LOSS = "validation/base_loss"
"""What a backend measured of the base model on the way to a tuned one."""

KEPT_EPOCH = "train/kept_epoch"
"""The epoch whose adapter was kept, where it is not the last."""


@dataclass(frozen=True)
class HeldOutRows:
    """One held-out set's examples as one subject was asked them: what names its answers in the ledger."""

    held_out: str
    asked: str


@dataclass
class Scores:
    """Scores of answers, by what they are answers to.

    Attributes:
        judges: the identities of judges, by the metric's name; one that is missing: as it is now.
    """

    answers: Mapping[tuple[str, str, str], Answers]
    ledger: Ledger
    judges: Mapping[str, str] = field(default_factory=dict)
    _expected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _rows: dict[tuple[str, str, HeldOutRows], FloatArray | None] = field(default_factory=dict)

    def of(self, metric: Metric, subject: str, rows: HeldOutRows) -> FloatArray | None:
        """What each row contributes, [rows, m]; None: the subject has not answered, or is not judged yet.

        A row of which the judge said nothing that can be read is NaN.
        """
        key = (metric.name, subject, rows)
        if key not in self._rows:
            self._rows[key] = self._scored(metric, subject, rows)
        return self._rows[key]

    def _scored(self, metric: Metric, subject: str, rows: HeldOutRows) -> FloatArray | None:
        asked = LOSSES if metric.asks is Asks.LOSSES else rows.asked
        if isinstance(metric, JudgedMetric):
            asked = rated_by(self.judges.get(metric.name, metric.identity), rows.asked)
        found = self.answers.get((subject, rows.held_out, asked))
        if found is None:
            return None
        if metric.asks is Asks.LOSSES:
            return np.array(found.losses, dtype=float)[:, None]
        if isinstance(metric, JudgedMetric):
            return np.array(scores_of(found.texts), dtype=float)[:, None]
        return metric.rows(self.expected(rows.held_out), found.texts)

    def computable(self, metrics: Sequence[Metric]) -> tuple[list[Metric], dict[str, MetricError]]:
        """The metrics that can score every answer, and why the code of the others fails, by name."""
        kept, failed = [], {}
        for metric in metrics:
            try:
                for subject, held_out, asked in self.answers:
                    if holds_texts(asked):
                        self.of(metric, subject, HeldOutRows(held_out, asked))
                kept.append(metric)
            except MetricError as error:
                failed[metric.name] = error
        return kept, failed

    def texts(self, subject: str, rows: HeldOutRows) -> tuple[str, ...] | None:
        """The answers themselves; None: there are none."""
        found = self.answers.get((subject, rows.held_out, rows.asked))
        return None if found is None else found.texts

    def values(self, metrics: Sequence[Metric], subject: str, rows: HeldOutRows) -> dict[str, float]:
        """The measures that are known of a subject, by the name that MLflow shows."""
        tables = {f"eval/{metric.name}": (metric, self.of(metric, subject, rows)) for metric in metrics}
        known = (
            (name, metric, readable(metric, table)) for name, (metric, table) in tables.items() if table is not None
        )
        return {name: float(metric.value(table.mean(axis=0))) for name, metric, table in known if len(table)}

    def expected(self, held_out: str) -> tuple[str, ...]:
        """The right answers of a held-out set."""
        if held_out not in self._expected:
            examples = self.ledger.example_set(held_out).examples
            self._expected[held_out] = tuple(example.output for example in examples)
        return self._expected[held_out]


def readable(metric: Metric, table: FloatArray) -> FloatArray:
    """The rows that have a score: not those of which a judge said nothing that can be read."""
    return table[~np.isnan(table[:, 0])] if isinstance(metric, JudgedMetric) else table


@dataclass(frozen=True)
class SweepKnowledge:
    """One sweep, read at once: trials, last jobs by key, curves and validation losses by job, baselines."""

    sweep: SweepRecord
    records: Sequence[TrialRecord]
    jobs: Mapping[str, JobRecord]
    curves: Mapping[int, Sequence[Snapshot]]
    validation: Mapping[int, Sequence[EpochLoss]]
    baselines: Sequence[BaselineRecord]
    answers: Mapping[tuple[str, str, str], Answers]

    @classmethod
    def of(cls, ledger: Ledger, sweep: SweepRecord) -> SweepKnowledge:
        """Read everything that a comparison needs of a sweep."""
        return cls(
            sweep,
            ledger.trials(sweep.id),
            ledger.last_jobs(sweep.id),
            ledger.curves(sweep.id),
            ledger.validation_curves(sweep.id),
            ledger.baselines(sweep.id),
            ledger.answers_of_sweep(sweep.id),
        )

    def base_loss(self, subject: str) -> float | None:
        """The loss of a base model that a backend measured before it tuned."""
        jobs = (self.jobs[r.key] for r in self.records if subject in r.baselines and r.key in self.jobs)
        return next((job.metrics[BASE_LOSS] for job in jobs if BASE_LOSS in job.metrics), None)


def rows_of(record: TrialRecord, held_out: str) -> HeldOutRows | None:
    """The rows that a trial is asked; None: it has no such held-out set."""
    digest = record.held_out.get(held_out)
    return None if digest is None else HeldOutRows(digest, record.asked)


def result(
    record: TrialRecord,
    job: JobRecord | None,
    curve: Sequence[Snapshot],
    measured: Mapping[str, float],
    *,
    validation: Sequence[EpochLoss] = (),
    point: int = 0,
    sweep: str = "",
) -> TrialResult:
    """Return the result of a trial.

    Args:
        curve: of the job, by step.
        measured: what its answers come to.
        validation: the loss on its held-out examples after each epoch.
    """
    if job is None:
        return TrialResult(record, JobState.PLANNED, {}, None, None, None, point=point, sweep=sweep)
    losses = epoch_means(finished_epochs(curve, is_done=job.state is JobState.SUCCEEDED))
    metrics = {STEP_LOSS: curve[-1].mean_loss} if curve else {}
    metrics |= ({EPOCH_LOSS: losses[-1]} if losses else {}) | dict(job.metrics) | dict(measured)
    metrics.pop(BASE_LOSS, None)  # the baseline's
    advice = None
    if job.state is JobState.SUCCEEDED and losses:
        advice = advise(losses, validation, keeps_best=KEPT_EPOCH in job.metrics)
    return TrialResult(
        record,
        job.state,
        metrics,
        job.tuned_model,
        job.failure,
        advice,
        curve[-1].step if curve else 0,
        point=point,
        sweep=sweep,
        trained_on=job.trained_on,
    )


def trial_result(ledger: Ledger, record: TrialRecord) -> TrialResult:
    """Return the result of one trial from the ledger."""
    job = ledger.job(record.key)
    if job is None:
        return result(record, None, (), {})
    rows = rows_of(record, "validation")
    measured: dict[str, float] = {}
    if rows is not None and job.state is JobState.SUCCEEDED:
        own = _metrics(ledger, record)
        scores = Scores(dict(_answers(ledger, record.key, rows, own)), ledger)
        metrics, _ = scores.computable(own)  # the verdict reports why others are not
        measured = scores.values(metrics, record.key, rows)
    return result(record, job, ledger.snapshots(job.id), measured, validation=ledger.epoch_losses(job.id))


def _metrics(ledger: Ledger, record: TrialRecord) -> Sequence[Metric]:
    try:
        return resolve_stored(record.settings.evaluation, {}, runs_code=not ledger.is_restored)[0]
    except ConfigError:
        if not ledger.is_restored:
            raise
        return ()


def _answers(
    ledger: Ledger, subject: str, rows: HeldOutRows, metrics: Sequence[Metric]
) -> Iterator[tuple[tuple[str, str, str], Answers]]:
    rated = (rated_by(metric.identity, rows.asked) for metric in metrics if isinstance(metric, JudgedMetric))
    for asked in (rows.asked, LOSSES, *rated):
        found = ledger.answers(subject, rows.held_out, asked)
        if found is not None:
            yield (subject, rows.held_out, asked), found
