"""Reads sweeps from the ledger, and scores their answers, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tunerun.comparison.curves import advise, epoch_means, finished_epochs
from tunerun.comparison.judges import scores_of
from tunerun.comparison.results import EPOCH_LOSS, STEP_LOSS, TrialResult
from tunerun.errors import ConfigError, MetricError
from tunerun.job import EpochLoss, JobState, Snapshot
from tunerun.ledger import (
    LOSSES,
    BaselineRecord,
    JobRecord,
    Ledger,
    StoredAnswers,
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
    """The key of a subject's answers in the ledger, beside the subject: the held-out set and how it was asked."""

    held_out: str
    asked: str


@dataclass
class Scores:
    """Scores of answers; each answer is scored once, however often a table needs it.

    Attributes:
        answers: by subject, held-out set and how the subject was asked.
        judges: the identity of each judge by its metric's name; of one that is missing, the identity it has now.
    """

    answers: Mapping[tuple[str, str, str], StoredAnswers]
    ledger: Ledger
    judges: Mapping[str, str] = field(default_factory=dict)
    _expected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _rows: dict[tuple[str, str, HeldOutRows], FloatArray | None] = field(default_factory=dict)

    def of(self, metric: Metric, subject: str, rows: HeldOutRows) -> FloatArray | None:
        """Return what each row contributes to a metric.

        Args:
            subject: a trial's key or a baseline's subject.
            rows: the held-out rows, as the subject was asked them.

        Returns:
            [rows, m]; a row for which the judge's reply could not be read is NaN. None: the subject has not answered,
            or is not judged yet.

        Raises:
            MetricError: the code of a user's own metric fails.
        """
        key = (metric.name, subject, rows)
        if key in self._rows:
            return self._rows[key]
        way = LOSSES if metric.asks is Asks.LOSSES else rows.asked
        if isinstance(metric, JudgedMetric):
            way = rated_by(self.judges.get(metric.name, metric.identity), rows.asked)
        answers = self.answers.get((subject, rows.held_out, way))
        table: FloatArray | None = None
        if answers is not None and metric.asks is Asks.LOSSES:
            table = np.array(answers.losses, dtype=float)[:, None]
        elif answers is not None and isinstance(metric, JudgedMetric):
            table = np.array(scores_of(answers.texts), dtype=float)[:, None]
        elif answers is not None:
            table = metric.rows(self.expected(rows.held_out), answers.texts)
        self._rows[key] = table
        return table

    def computable(self, metrics: Sequence[Metric]) -> tuple[list[Metric], dict[str, MetricError]]:
        """Return the metrics that can score every answer, and by name the error of each other one.

        A metric with code of its own is tried on all answers first, so that a verdict never has half of a metric.
        """
        kept, failed = [], {}
        for metric in metrics:
            try:
                # Stops and judgements are stored among the answers, and are no text that a metric could score.
                for subject, held_out, asked in self.answers:
                    if holds_texts(asked):
                        self.of(metric, subject, HeldOutRows(held_out, asked))
                kept.append(metric)
            except MetricError as error:
                failed[metric.name] = error
        return kept, failed

    def texts(self, subject: str, rows: HeldOutRows) -> tuple[str, ...] | None:
        """Return the answers of a subject; None: there are none."""
        answers = self.answers.get((subject, rows.held_out, rows.asked))
        return None if answers is None else answers.texts

    def values(self, metrics: Sequence[Metric], subject: str, rows: HeldOutRows) -> dict[str, float]:
        """Return the values of a subject's metrics by the name that MLflow shows.

        Args:
            metrics: those without a score of any row are omitted.
            subject, rows: as in `of`.
        """
        values = {}
        for metric in metrics:
            table = self.of(metric, subject, rows)
            table = None if table is None else readable(metric, table)
            if table is not None and len(table):
                values[f"eval/{metric.name}"] = float(metric.value(table.mean(axis=0)))
        return values

    def expected(self, held_out: str) -> tuple[str, ...]:
        """Return the right answers of a held-out set, by its digest."""
        if held_out not in self._expected:
            examples = self.ledger.example_set(held_out).examples
            self._expected[held_out] = tuple(example.output for example in examples)
        return self._expected[held_out]


def readable(metric: Metric, table: FloatArray) -> FloatArray:
    """Return the rows that have a score, without those for which a judge's reply could not be read."""
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
    answers: Mapping[tuple[str, str, str], StoredAnswers]

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
        """Return the loss of a base model that a backend measured before it tuned; None: none did."""
        jobs = (self.jobs[r.key] for r in self.records if subject in r.baselines and r.key in self.jobs)
        return next((job.metrics[BASE_LOSS] for job in jobs if BASE_LOSS in job.metrics), None)


def rows_of(record: TrialRecord, held_out: str) -> HeldOutRows | None:
    """Return the held-out rows of a trial and how it is asked; None: it has no such held-out set."""
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
        job: the trial's last one; None: it has not begun.
        curve: of the job, by step.
        measured: metrics of its answers, by the name that MLflow shows.
        validation: the loss on its held-out examples after each epoch.
        point: number of its point.
        sweep: id of the sweep that it is shown for.
    """
    if job is None:
        return TrialResult(record, JobState.PLANNED, {}, None, None, None, point=point, sweep=sweep)
    # The mean of a part of an epoch would jump with each step that arrives, so only whole epochs count.
    losses = epoch_means(finished_epochs(curve, is_done=job.state is JobState.SUCCEEDED))
    metrics = {STEP_LOSS: curve[-1].mean_loss} if curve else {}
    metrics |= ({EPOCH_LOSS: losses[-1]} if losses else {}) | dict(job.metrics) | dict(measured)
    metrics.pop(BASE_LOSS, None)  # measured by this job, but of the baseline
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
    """Return the result of one trial from the ledger, with every metric that can be computed.

    Raises:
        ConfigError: a metric of the trial's config is not known to this version; in a restored record it is omitted.
    """
    job = ledger.job(record.key)
    if job is None:
        return result(record, None, (), {})
    rows = rows_of(record, "validation")
    measured: dict[str, float] = {}
    if rows is not None and job.state is JobState.SUCCEEDED:
        try:
            own = resolve_stored(record.settings.evaluation, {}, runs_code=not ledger.is_restored)[0]
        except ConfigError:
            # A record from elsewhere may be decided by a metric that is unknown or not run here; the rest is readable.
            if not ledger.is_restored:
                raise
            own = ()
        ways = [rows.asked, LOSSES]
        ways += [rated_by(metric.identity, rows.asked) for metric in own if isinstance(metric, JudgedMetric)]
        answers_of = {(record.key, rows.held_out, way): ledger.answers(record.key, rows.held_out, way) for way in ways}
        scores = Scores({key: answers for key, answers in answers_of.items() if answers is not None}, ledger)
        metrics, _ = scores.computable(own)  # the verdict reports why others are not
        measured = scores.values(metrics, record.key, rows)
    return result(record, job, ledger.snapshots(job.id), measured, validation=ledger.epoch_losses(job.id))
