"""The comparison of all trials of a sweep with their baselines on held-out examples, read from the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunerun.baselines import is_base_model
from tunerun.comparison.curves import Advice, advise, epoch_means, finished_epochs
from tunerun.evaluation.metrics import measure
from tunerun.job import Example, Failure, JobState, Snapshot, TunedModel
from tunerun.ledger import Answers, BaselineRecord, JobRecord, Ledger, SweepRecord, TrialRecord

LOSS = "validation/loss"
STEP_LOSS = "train/mean_loss"
EPOCH_LOSS = "train/epoch_mean_loss"
_BASE_LOSS = "validation/base_loss"


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial.

    Attributes:
        state: of its last job; PLANNED where there is none yet.
        metrics: by the names and with the values that MLflow shows last: `train/mean_loss` (of the last step) and
            `train/epoch_mean_loss` (mean over the steps of the last whole epoch), both in nats per output token, what
            the backend measured, and the evaluation's `eval/...`; only those that are known.
        advice: what its loss curve says; None until it has succeeded.
        last_step: how far its loss curve is.
    """

    record: TrialRecord
    state: JobState
    metrics: Mapping[str, float]
    tuned_model: TunedModel | None
    failure: Failure | None
    advice: Advice | None
    last_step: int = 0


@dataclass(frozen=True)
class BaselineResult:
    """What a base model without tuning reaches on the same held-out examples with the same template."""

    name: str
    subject: str
    model: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """Which trial to use, or that none is better than the base model.

    Attributes:
        metric: what decided: `eval/<metric>` (more is better), else `validation/loss` (less is better); None where
            nothing was held out.
        best: the number of the trial to use; None: none can be advised.
        sentence: the verdict in words.
    """

    sweep: SweepRecord
    trials: tuple[TrialResult, ...]
    baselines: tuple[BaselineResult, ...]
    metric: str | None
    best: int | None
    sentence: str

    @property
    def is_complete(self) -> bool:
        """Whether every trial is finished."""
        return all(trial.state.is_finished for trial in self.trials)

    @property
    def is_measured(self) -> bool:
        """Whether every trial that succeeded has the metric that decides, if answers have to be asked for it."""
        asked = self.metric is not None and self.metric != LOSS
        return not asked or all(self.metric in t.metrics for t in self.trials if t.state is JobState.SUCCEEDED)

    @property
    def ranked(self) -> list[TrialResult]:
        """The trials, the best first, those without a result last."""
        return sorted(self.trials, key=lambda t: _rank(t, self.metric), reverse=True)


def judge(ledger: Ledger, sweep: SweepRecord) -> Verdict:
    """Compare the trials of a sweep, as far as the ledger knows them."""
    records = ledger.trials(sweep.id)
    known = _Known(ledger, ledger.last_jobs(sweep.id), ledger.curves(sweep.id), ledger.answers_of_sweep(sweep.id))
    trials = tuple(known.result(record) for record in records)
    baselines = _baselines(known, records, ledger.baselines(sweep.id))
    metric = _deciding_metric(records, trials)
    best, sentence = _choose(ledger, trials, {b.subject: b for b in baselines}, metric)
    unfinished = sum(not trial.state.is_finished for trial in trials)
    if unfinished:
        sentence = f"So far, with {unfinished} of {len(trials)} trials unfinished: {sentence}"
    return Verdict(sweep, trials, baselines, metric, best, sentence)


def trial_result(ledger: Ledger, record: TrialRecord) -> TrialResult:
    """What the ledger knows of one trial."""
    job = ledger.job(record.key)
    if job is None:
        return _Known(ledger, {}, {}, {}).result(record)
    answers = {}
    if record.validation is not None:
        found = ledger.answers(record.key, record.validation, record.asked)
        answers = {} if found is None else {(record.key, record.validation, record.asked): found}
    return _Known(ledger, {record.key: job}, {job.id: ledger.snapshots(job.id)}, answers).result(record)


@dataclass(frozen=True)
class _Known:
    """What the ledger knows, read at once: last jobs by key, curves by job, answers by what they were asked for."""

    ledger: Ledger
    jobs: Mapping[str, JobRecord]
    curves: Mapping[int, Sequence[Snapshot]]
    answers: Mapping[tuple[str, str, str], Answers]
    sets: dict[str, Sequence[Example]] = field(default_factory=dict)

    def result(self, record: TrialRecord) -> TrialResult:
        job = self.jobs.get(record.key)
        if job is None:
            return TrialResult(record, JobState.PLANNED, {}, None, None, None)
        curve = self.curves.get(job.id, ())
        losses = epoch_means(finished_epochs(curve, is_done=job.state is JobState.SUCCEEDED))
        metrics = {STEP_LOSS: curve[-1].mean_loss} if curve else {}
        metrics |= ({EPOCH_LOSS: losses[-1]} if losses else {}) | dict(job.metrics)
        metrics.pop(_BASE_LOSS, None)  # the baseline's, which the backend measured on the way
        metrics.update(self.measures(record, record.key))
        advice = advise(losses) if job.state is JobState.SUCCEEDED and losses else None
        return TrialResult(
            record, job.state, metrics, job.tuned_model, job.failure, advice, curve[-1].step if curve else 0
        )

    def measures(self, record: TrialRecord, subject: str) -> Mapping[str, float]:
        """What the answers of a trial, or of a baseline of it, come to."""
        if record.validation is None:
            return {}
        answers = self.answers.get((subject, record.validation, record.asked))
        if answers is None:
            return {}
        return measure(record, self.examples(record.validation), answers).metrics

    def examples(self, held_out: str) -> Sequence[Example]:
        """The examples under a digest, read once."""
        if held_out not in self.sets:
            self.sets[held_out] = self.ledger.example_set(held_out).examples
        return self.sets[held_out]


def _baselines(
    known: _Known, records: Sequence[TrialRecord], baselines: Sequence[BaselineRecord]
) -> tuple[BaselineResult, ...]:
    results = []
    for baseline in baselines:
        subject = baseline.subject
        members = [record for record in records if subject in record.baselines]
        metrics: dict[str, float] = {}
        jobs = (known.jobs[member.key] for member in members if member.key in known.jobs)
        loss = next((job.metrics[_BASE_LOSS] for job in jobs if _BASE_LOSS in job.metrics), None)
        if loss is not None and is_base_model(baseline.kind):
            metrics[LOSS] = loss
        metrics.update(known.measures(members[0], subject))
        model = str(baseline.document.get("model", members[0].settings.model))
        results.append(BaselineResult(baseline.name, subject, model, metrics))
    return tuple(results)


def _deciding_metric(records: Sequence[TrialRecord], trials: Sequence[TrialResult]) -> str | None:
    wanted = [f"eval/{name}" for name in records[0].settings.evaluation.get("metrics", ())]
    if wanted and any(record.validation is not None for record in records):
        return wanted[0]
    return LOSS if any(LOSS in trial.metrics for trial in trials) else None


def _merit(metrics: Mapping[str, float], metric: str) -> float:
    """More is better, whatever the metric; minus infinity where it is not known."""
    value = metrics.get(metric, math.inf if metric == LOSS else -math.inf)
    return -value if metric == LOSS else value


def _rank(trial: TrialResult, metric: str | None) -> tuple[bool, float, float, int]:
    """More is better; the validation loss breaks ties, then the trial that was planned first."""
    merit = -math.inf if metric is None else _merit(trial.metrics, metric)
    return trial.state is JobState.SUCCEEDED, merit, _merit(trial.metrics, LOSS), -trial.record.number


def _choose(
    ledger: Ledger, trials: Sequence[TrialResult], baselines: Mapping[str, BaselineResult], metric: str | None
) -> tuple[int | None, str]:
    done = [trial for trial in trials if trial.state is JobState.SUCCEEDED]
    if not done:
        return None, "No trial has succeeded."
    if metric is None:
        return None, (
            "Nothing was held out, so no trial can be preferred: a low training loss is no sign of a good model. "
            "Set dataset.validation."
        )
    best = max(done, key=lambda t: _rank(t, metric))
    base = baselines[best.record.baselines[0]].metrics
    if metric not in best.metrics or metric not in base:
        return None, f"{metric} is not known for every trial and its base model yet."
    value, base_value = best.metrics[metric], base[metric]
    if _merit(best.metrics, metric) <= _merit(base, metric):
        return (
            None,
            f"No trial is better than the base model ({metric}: at best {value:.4g}, base model {base_value:.4g}).",
        )
    held_out = len(ledger.example_set(best.record.validation).examples) if best.record.validation else 0
    tied = [t.record.number for t in done if t.metrics.get(metric) == value and t is not best]
    behind = f", and behind it by {LOSS}" if LOSS in best.metrics else ""
    tie = f" Equal by {metric}{behind}: {_listed(tied)}." if tied else ""
    return best.record.number, (
        f"Use trial {best.record.number}: {metric} {value:.4g} on {held_out} held-out examples, "
        f"the base model {base_value:.4g}.{tie}"
    )


def _listed(numbers: Sequence[int]) -> str:
    return ("trial " if len(numbers) == 1 else "trials ") + ", ".join(map(str, numbers))
