"""Opens a sweep's test set at the end, for the one point that the validation set recommends and for all baselines.

A run never uses the test set. Its rows are frozen with the plan, and each opening is recorded before any model answers
it: after a first look at the test set, later choices may depend on it, and readers of the numbers must be able to see
that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tunerun.backends import open_backend, stored_section
from tunerun.baselines import restored
from tunerun.baselines.base import Baseline, PlainModel
from tunerun.comparison import judge
from tunerun.comparison.results import Verdict
from tunerun.errors import InputError
from tunerun.job import JobState, TunedModel
from tunerun.ledger import LOSSES, BaselineRecord, Ledger, Opening, SweepRecord, TrialRecord
from tunerun.locks import held
from tunerun.metrics import Asks, resolve_stored
from tunerun.planning.measuring import choices_of
from tunerun.runner import SweepResult
from tunerun.runner.answer_collector import AnswerCollector, AnswerMethod, Question
from tunerun.runner.judging import judge_answers, judges_of
from tunerun.runner.progress import Progress
from tunerun.runner.unwatched_jobs import BackendOpener

TEST = "test"


def open_test(
    ledger: Ledger,
    sweep: SweepRecord,
    *,
    cache: Path,
    progress: Progress | None = None,
    open_backend: BackendOpener = open_backend,
) -> list[Opening]:
    """Open the test set of a sweep: record the point, then obtain the answers of its models and of every baseline.

    Args:
        ledger: open for writing.
        sweep: whose test set is opened.
        cache: folder of converted base models.
        progress: hooks that are called during the work; None: none.
        open_backend: opens a backend from its config section; replaced in tests.

    Returns:
        Earlier openings of these rows, the oldest first; empty: this is the first.

    Raises:
        InputError: there is no test set, the sweep is not finished, or it recommends no point; the test set stays
            closed.
        LockedError: another process runs this sweep.
        BackendError: a model cannot answer; the opening and the answers so far are kept, and the same command obtains
            the rest.
    """
    records = ledger.trials(sweep.id)
    if not any(TEST in record.held_out for record in records):
        raise InputError(
            f"{sweep.id}: dataset.test: there is no test set; set dataset.test.path or "
            "dataset.test.fraction, then run the experiment again"
        )
    with held(ledger.path.parent, sweep.id), ExitStack() as stack:
        point = _advised(judge(ledger, sweep), records)
        earlier = ledger.openings(sweep.id)
        compared = _with_baselines(ledger, sweep, records, point[0])
        questions: list[Question] = []
        for record in point:
            tuned = PlainModel(_tuned_model(ledger, record))
            questions += _questions(ledger, sweep, record, record.key, f"trial {record.number}", tuned)
        for baseline, record in compared:
            model = restored(baseline.kind, baseline.subject, baseline.document)
            if model is not None:
                name = f"the baseline {baseline.name}"
                questions += _questions(ledger, sweep, record, baseline.subject, name, model)
        # Recorded before any model answers: a kill after this line leaves an opening with some answers, which the same
        # command completes, but never answers that were looked at without a record.
        ledger.open_test(sweep.id, [record.number for record in point], time.time())
        missing = [question for question in questions if ledger.answered_at(*question.key) is None]
        if missing:
            # Answer in the number format of training, even if this machine would choose another one.
            section = stored_section(point[0].settings.backend, point[0].number_format)
            backend = stack.enter_context(open_backend(section, ledger.path.parent.absolute(), cache))
            answering = [point[0], *(record for _, record in compared)]
            backend.prepare(list(dict.fromkeys(_tuned_model(ledger, record).model for record in answering)))
            talk = progress or Progress()
            AnswerCollector(ledger, backend, lambda each: talk.evaluating(each[0].name)).ask(missing)
        judges, max_usd = judges_of(ledger, [sweep])
        for problem in judge_answers(ledger, [sweep], judges, max_usd=max_usd, progress=progress):
            (progress or Progress()).note(problem)
    return earlier


def on_test_set(ledger: Ledger, result: SweepResult) -> SweepResult:
    """Return the result compared on the opened test set, by the metrics that were frozen before the opening."""
    return replace(result, verdict=judge(ledger, result.verdict.sweep, held_out=TEST))


def _advised(verdict: Verdict, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials of the advised point, which is determined before the test set is opened."""
    unfinished = sum(not trial.state.is_finished for trial in verdict.trials)
    if unfinished:
        raise InputError(
            f"{verdict.sweep.id}: {unfinished} of {len(verdict.trials)} trials are unfinished, and another point may "
            f"be advised when all are done; the test set stays closed. To finish it: {verdict.sweep.command}"
        )
    if verdict.decision.advised is None:
        raise InputError(
            f"{verdict.sweep.id}: no point is advised, so there is nothing to confirm and the test set stays closed: "
            f"{verdict.sentence}"
        )
    trials = [verdict.trials[place] for place in verdict.points[verdict.decision.advised].trials]
    numbers = [trial.record.number for trial in trials if trial.state is JobState.SUCCEEDED]
    return [records[number] for number in numbers]


def _with_baselines(
    ledger: Ledger, sweep: SweepRecord, records: Sequence[TrialRecord], advised: TrialRecord
) -> list[tuple[BaselineRecord, TrialRecord]]:
    """Return every baseline that can answer the advised point's test rows, each with a trial compared with it."""
    # Baselines of other templates and base models too: theirs may be the hardest to beat.
    rows: Mapping[str, str] = sweep.document.get("held_out_rows", {})

    def rows_of(record: TrialRecord) -> str | None:
        digest = record.held_out.get(TEST)
        return None if digest is None else rows.get(digest, digest)

    def has_same_rows(record: TrialRecord) -> bool:
        is_same_place = record.settings.backend == advised.settings.backend
        job = ledger.job(record.key) if is_same_place and rows_of(record) == rows_of(advised) else None
        return job is not None and job.tuned_model is not None

    compared = []
    for baseline in ledger.baselines(sweep.id):
        record = next((r for r in records if baseline.subject in r.baselines and has_same_rows(r)), None)
        if record is not None and not baseline.document.get("problem"):
            compared.append((baseline, record))
    return compared


def _questions(
    ledger: Ledger, sweep: SweepRecord, record: TrialRecord, subject: str, name: str, model: PlainModel | Baseline
) -> Iterator[Question]:
    """Yield the questions on the test rows that a trial's metrics need, for its tuned model or a baseline.

    Args:
        record: of the trial, which says how answers are obtained.
        subject: the key under which the ledger stores the answers.
        name: of the model, for progress and messages.
    """
    examples = ledger.example_set(record.held_out[TEST])
    metrics, _ = resolve_stored(record.settings.evaluation, sweep.document.get("metrics", {}))
    choices = choices_of(record.settings.evaluation.get("choices"), ledger.example_set(record.training))
    generation = replace(record.settings.generation, seed=record.settings.seed)
    methods = {Asks.ANSWERS: record.asked, Asks.LOSSES: LOSSES}
    for asks in dict.fromkeys(metric.asks for metric in metrics):
        if asks is not Asks.LOSSES or isinstance(model, PlainModel) or model.measures_losses:
            method = AnswerMethod(methods[asks], generation, choices)
            yield Question(subject, f"{name} on the test set", model, examples, method)


def _tuned_model(ledger: Ledger, record: TrialRecord) -> TunedModel:
    job = ledger.job(record.key)
    if job is None or job.tuned_model is None:
        raise InputError(f"trial {record.number} has no tuned model; run it again with --fresh")
    return job.tuned_model
