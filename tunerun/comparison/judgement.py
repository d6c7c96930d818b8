"""The ledger's answers, scored and decided: which point of one sweep or of several to use.

`judge` reads from top to bottom: which metric decides, the measurements, why nothing can be compared or the decision
(`decision.decide`), and the verdict with its sentence and notes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunerun.baselines import words
from tunerun.comparison import judges, sentences
from tunerun.comparison.arms import BaselineScores, PointScores
from tunerun.comparison.decision import Comparison, decide
from tunerun.comparison.knowledge import Scores, SweepKnowledge
from tunerun.comparison.measurements import TEST, VALIDATION, MeasuredPoint, Measurements
from tunerun.comparison.paired_tests import Rules
from tunerun.comparison.results import (
    LOSS,
    BaselineResult,
    Decision,
    Estimate,
    Measure,
    Outcome,
    PointResult,
    Verdict,
)
from tunerun.errors import InputError
from tunerun.job import JobState
from tunerun.ledger import Ledger, SweepRecord
from tunerun.metrics import Asks, Unit, resolve, resolve_stored
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.replicates import without_seed
from tunerun.statistics import consistency
from tunerun.stored import section

__all__ = ["TEST", "VALIDATION", "judge"]


def judge(
    ledger: Ledger,
    sweep: SweepRecord | Sequence[SweepRecord],
    *,
    evaluation: Any = None,
    held_out: str = VALIDATION,
) -> Verdict:
    """Compare the points of a sweep, or of several, with their baselines and each other, as far as the ledger knows.

    Args:
        sweep: one, or several that were measured on the same held-out rows.
        evaluation: the section whose metrics, alpha and worth count; None: the one frozen with the first sweep.
        held_out: `validation`; `test`: the point for which the test set was opened last, against the baselines.

    Raises:
        InputError: the sweeps were measured on different rows.
        ConfigError: the metric that decides is not known to this version, or its file is missing or has changed.
        MetricError: the code of the metric that decides fails; a failure of another metric becomes a note.
    """
    records = (sweep,) if isinstance(sweep, SweepRecord) else tuple(sweep)
    sweeps = [SweepKnowledge.of(ledger, each) for each in records]

    document = sweeps[0].sweep.document if evaluation is None else {}
    if evaluation is None:
        stored = sweeps[0].records[0].settings.evaluation
        # A restored record comes from elsewhere: code of its own metrics is not run.
        metrics, notes = resolve_stored(stored, document.get("metrics", {}), runs_code=not ledger.is_restored)
        rules = Rules(stored.get("alpha", 0.05), stored.get("worth", 0.0))
    else:
        metrics, notes = resolve(evaluation), []
        rules = Rules(evaluation.alpha, evaluation.worth)

    answers = {key: stored for each in sweeps for key, stored in each.answers.items()}
    scores = Scores(answers, ledger, judges.identities_of(metrics, document))
    kept, failed = scores.computable(metrics)
    if metrics and metrics[0].name in failed:
        raise failed[metrics[0].name]
    notes += [f"{name} is not computed: {error}." for name, error in failed.items()]

    measured = Measurements(ledger, sweeps, kept, scores, held_out, rules.alpha)
    return _verdict(measured, rules, section(document, "judges"), notes)


def _verdict(measured: Measurements, rules: Rules, frozen_judges: Mapping[str, Any], notes: Sequence[str]) -> Verdict:
    measures: tuple[Measure, ...] = ()
    if measured.has_held_out and measured.metrics:
        measures = tuple(Measure(f"eval/{m.name}", m.unit, m.higher_is_better) for m in measured.metrics)
    elif measured.has_held_out and any(LOSS in trial.metrics for trial in measured.trials):
        measures = (Measure(LOSS, Unit.NATS, higher_is_better=False),)
    points = [_point_result(measured, point) for point in measured.points]
    baselines = _baseline_results(measured)

    reason = _reason_not_to_compare(measured, measures, points)
    follows: tuple[str, ...] = ()
    if reason is not None:
        metric = measures[0].name if measures else None
        decision = Decision(Outcome.NONE, metric=metric, alpha=rules.alpha, worth=rules.worth)
        sentence = reason
    else:
        comparison = _compared(measured, rules)
        # The majority answer has no losses: with a metric of losses it is not a baseline that is still to be measured.
        asks_losses = measured.metrics[0].asks is Asks.LOSSES
        measurable = [each for each in baselines if each.model or not asks_losses]
        decision = comparison.decision
        if measurable and decision.outcome is Outcome.NONE:
            # The baselines are there and not measured yet: advice would be about a comparison that was never made.
            decision = replace(decision, advised=None)
        numbers = [point.number for point in measured.compared]
        for number, against, tied_p in zip(numbers, comparison.differences, comparison.tied_p, strict=True):
            is_tied = number in comparison.decision.tied
            points[number] = replace(points[number], against=against, is_tied=is_tied, tied_p=tied_p)
        case = sentences.Case(decision, measures[0], points, numbers, measurable)
        sentence, follows = sentences.sentence(case), sentences.notes(case)
        if measured.held_out == TEST:
            sentence = sentences.on_the_test_set(sentence)

    unfinished = sum(not trial.state.is_finished for trial in measured.trials)
    return Verdict(
        sweeps=tuple(each.sweep for each in measured.sweeps),
        trials=measured.trials,
        points=tuple(points),
        baselines=tuple(baselines),
        measures=measures,
        decision=decision,
        sentence=sentences.so_far(sentence, unfinished, len(measured.trials)) if unfinished else sentence,
        held_out=measured.held_out,
        notes=(*follows, *_notes(measured, rules.alpha, frozen_judges, is_compared=reason is None), *notes),
    )


def _reason_not_to_compare(
    measured: Measurements, measures: Sequence[Measure], points: Sequence[PointResult]
) -> str | None:
    """Why nothing is compared, as a sentence; None: something is."""
    if not any(trial.state is JobState.SUCCEEDED for trial in measured.trials):
        return sentences.no_success([trial.state for trial in measured.trials])
    if not measured.has_held_out:
        return sentences.NOTHING_HELD_OUT if measured.held_out == VALIDATION else sentences.NO_TEST_SET
    if measured.opened is not None and not measured.opened:
        return sentences.TEST_SET_IS_CLOSED
    if not measured.metrics:
        # A service's validation loss is one number for each point: without rows there is nothing to test.
        return sentences.only_loss(points, LOSS)
    if not measured.compared:
        return sentences.not_measured(measures[0])
    if measured.rows_differ:
        if len(measured.sweeps) > 1:
            ids = sentences.listed_words([each.sweep.id for each in measured.sweeps])
            raise InputError(
                f"{ids} were measured on different held-out rows, so they cannot be compared; "
                "name sweeps over the same dataset.validation rows, or compare each alone"
            )
        return sentences.different_rows()
    return None


def _compared(measured: Measurements, rules: Rules) -> Comparison:
    """The decision by the first metric: one family of tests, so that more metrics do not cost power."""
    metric = measured.metrics[0]
    points = [
        PointScores(
            point.number,
            np.stack(measured.tables(metric, point)),
            point.records[0].tokens,
            point.records[0].settings.hyperparameters.adapter_rank,
            measured.answer_length(point),
        )
        for point in measured.compared
    ]
    tables = [(each.name, measured.baseline_table(metric, each)) for each in measured.baselines]
    # A baseline that has answered only some rows, or other ones, cannot be paired with the points row by row.
    shape = points[0].scores.shape[1:]
    baselines = [BaselineScores(name, t) for name, t in tables if t is not None and t.shape == shape]
    return decide(metric, points, baselines, measured.clusters(metric), rules)


# Results of points and baselines


def _point_result(measured: Measurements, point: MeasuredPoint) -> PointResult:
    first = point.records[0]
    estimate_of = {f"eval/{metric.name}": measured.point_estimate(metric, point) for metric in measured.metrics}
    estimates = {name: each for name, each in estimate_of.items() if each is not None}
    trials = [measured.trials[place] for place in point.places]
    losses = [trial.metrics[LOSS] for trial in trials if LOSS in trial.metrics]
    if losses:
        spread = float(np.std(losses, ddof=1)) if len(losses) > 1 else None
        estimates[LOSS] = Estimate(float(np.mean(losses)), spread=spread, seeds=len(losses))
    answers = measured.texts(point)
    return PointResult(
        number=point.number,
        overrides=without_seed(first.overrides),
        trials=point.places,
        estimates=estimates,
        consistency=consistency(answers) if len(answers) > 1 and len(set(map(len, answers))) == 1 else None,
        tokens=first.tokens,
        rank=first.settings.hyperparameters.adapter_rank,
        answer_length=measured.answer_length(point),
        stopped=measured.stops.get(point.number),
    )


def _baseline_results(measured: Measurements) -> list[BaselineResult]:
    texts = [words(each.record.kind, each.record.document) for each in measured.baselines]
    results = []
    for baseline, text in zip(measured.baselines, texts, strict=True):
        estimates: dict[str, Estimate] = {}
        for metric in measured.metrics:
            table = measured.baseline_table(metric, baseline)
            estimate = None if table is None else measured.estimate(metric, [table])
            if estimate is not None:
                estimates[f"eval/{metric.name}"] = estimate
        if baseline.loss is not None:
            estimates[LOSS] = Estimate(baseline.loss)
        document = baseline.record.document
        results.append(
            BaselineResult(
                name=baseline.name,
                subject=baseline.record.subject,
                model=str(document.get("model", baseline.records[0].settings.model)),  # absent in old ledgers
                trials=baseline.places,
                estimates=estimates,
                problem=document.get("problem"),
                # Two base models make two baselines of the same words; a sentence has to say which it means.
                words=f"{text} ({baseline.name})" if text and texts.count(text) > 1 else text,
            )
        )
    return results


# Notes


def _notes(
    measured: Measurements, alpha: float, frozen_judges: Mapping[str, Any], *, is_compared: bool
) -> Iterator[str]:
    """What a reader should know that does not follow from the decision."""
    if is_compared and measured.held_out == VALIDATION:
        numbers = {point.number for point in measured.compared}
        missing = [str(p.number) for p in measured.points if p.number not in numbers and p.number not in measured.stops]
        few = len(missing) <= sentences.MOST_NAMED
        if missing:
            which = sentences.listed_words(missing) if few else f"{len(missing)} of them"
            yield f"Not compared, because they have no answers: points {which}."
    if measured.stops:
        yield sentences.stopped_early(measured.stops, alpha)
    # Shown twice, the trial that two sweeps share would be two points that nothing can distinguish.
    shared = sum(len(each.records) for each in measured.sweeps) - len(measured.entries)
    if shared:
        yield f"Trials that several of the sweeps share are shown once ({shared} of them)."
    if measured.held_out == TEST:
        openings = {o.opened_at for each in measured.sweeps for o in measured.ledger.openings(each.sweep.id)}
        if len(openings) > 1:
            days = [time.strftime("%Y-%m-%d", time.gmtime(at)) for at in sorted(openings)]
            yield sentences.opened_again(days)
    for metric in measured.metrics:
        if isinstance(metric, JudgedMetric):
            kept = measured.kept_rows.get(metric.name)
            yield from judges.notes(
                metric,
                measured.ledger,
                section(frozen_judges, metric.name),
                [record for _, record in measured.entries],
                unreadable=0 if kept is None else int((~kept).sum()),
                rows=0 if kept is None else len(kept),
                unjudged=measured.unjudged(metric),
            )
