"""Sweeps in real ledgers: trials with the answers that they gave, and baselines with theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunerun.digest import digest
from tunerun.examples import Example, ExampleSet
from tunerun.generation import GenerateOptions
from tunerun.job import (
    BaseModelRef,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    Scalar,
    Snapshot,
    TemplateText,
    TunedModel,
    TuningHyperparameters,
    TuningRequest,
)
from tunerun.ledger import LOSSES, BaselineRecord, Ledger, SweepRecord, TrialRecord, asked_by

MODEL = BaseModelRef(name="smollm2-135m", source="smollm2")
ASKED = asked_by(GenerateOptions())
EPOCHS = "hyperparameters.epoch_count"
RIGHT, WRONG = "yes", "no"


@dataclass(frozen=True)
class Trained:
    """A trial: what it sets, and its answers; `1` is right, `0` is not.

    Attributes:
        answers: None: it has not answered. test: the same for the test set.
        losses: of the expected answers.
        template: which text_input it has.
    """

    answers: str | Sequence[str] | None = None
    state: JobState = JobState.SUCCEEDED
    overrides: Mapping[str, Scalar] = field(default_factory=dict)
    tokens: int = 100
    test: str | None = None
    losses: Sequence[float] | None = None
    template: str = "{}"


@dataclass
class Frozen:
    """A sweep in a ledger."""

    ledger: Ledger
    sweep: SweepRecord
    trials: Sequence[TrialRecord]


def texts(answers: str | Sequence[str]) -> list[str]:
    """Return answers as texts; a string of `1` and `0` stands for right and wrong ones."""
    return [RIGHT if each == "1" else WRONG for each in answers] if isinstance(answers, str) else list(answers)


def held_out(expected: Sequence[str], template: str = "{}", name: str = "validation") -> ExampleSet:
    """Make the held-out examples that a template renders."""
    examples = tuple(Example(template.format(f"{name} {n}"), output) for n, output in enumerate(expected))
    return ExampleSet(digest([[e.text_input, e.output] for e in examples]), "rows.jsonl", examples)


def frozen(
    folder: Path,
    trials: Sequence[Trained],
    baselines: Mapping[str, str | Sequence[str] | None] | None = None,
    *,
    expected: Sequence[str] | None = None,
    sweep_id: str = "support-1a2b3c4d",
    evaluation: Mapping[str, Any] | None = None,
    clusters: Sequence[int] | None = None,
    rows: Sequence[str] | None = None,
    base_losses: Sequence[float] | None = None,
    ledger: Ledger | None = None,
) -> Frozen:
    """Write a sweep into a ledger, with the jobs and the answers of its trials and baselines.

    Args:
        baselines: answers of each, by name; None: it has not answered.
        expected: the right answers; None: `yes` to everything.
        rows: what the document says of each trial's held-out rows; None: it says nothing.
    """
    ledger = ledger or Ledger(folder / "ledger.db")
    width = next((len(t.answers) for t in trials if t.answers is not None), 24)
    expected = expected or [RIGHT] * width
    baselines = {"base": "0" * width} if baselines is None else baselines
    training = ExampleSet(digest("training"), "rows.jsonl", (Example("1", RIGHT),))
    sets = [held_out(expected, each.template) for each in trials]
    tests = [held_out(expected, each.template, "test") for each in trials]
    base_records = [
        BaselineRecord(digest([sweep_id.rpartition("-")[0], name]), name, *_kind(name)) for name in baselines
    ]
    config = {
        "name": "support",
        "model": {"name": MODEL.name},
        "evaluation": {"metrics": ["exact_match"], **(evaluation or {})},
    }
    records = [
        TrialRecord(
            number=number,
            key=digest([dict(each.overrides), number, each.tokens]),
            baselines=tuple(record.subject for record in base_records),
            asked=ASKED,
            training=training.digest,
            held_out={"validation": sets[number].digest, "test": tests[number].digest},
            tokens=each.tokens,
            steps=4,
            overrides=dict(each.overrides) or {EPOCHS: 5 * (number + 1)},
            config=config,
        )
        for number, each in enumerate(trials)
    ]
    document: dict[str, Any] = {"command": "tunerun run experiment=support"}
    if clusters is not None:
        document["clusters"] = {held.digest: list(clusters) for held in [*sets, *tests]}
    if rows is not None:
        document["held_out_rows"] = {held.digest: name for held, name in zip(sets, rows, strict=True)}
    sweep = SweepRecord(sweep_id, "support", 1_760_000_000.0, document)
    ledger.freeze(sweep, records, [training, *sets, *tests], base_records)
    for record, each, validation, test in zip(records, trials, sets, tests, strict=True):
        _become(ledger, sweep, record, each)
        _answer(ledger, record.key, validation, each.answers, each.losses)
        _answer(ledger, record.key, test, each.test)
    for base, answers in zip(base_records, baselines.values(), strict=True):
        for held in [*sets, *tests]:
            _answer(ledger, base.subject, held, answers, base_losses)
    return Frozen(ledger, sweep, records)


def _answer(
    ledger: Ledger,
    subject: str,
    held: ExampleSet,
    answers: str | Sequence[str] | None,
    losses: Sequence[float] | None = None,
) -> None:
    """Record what a subject has answered, if anything."""
    if answers is not None:
        ledger.record_answers(subject, held.digest, ASKED, texts(answers))
    if losses is not None:
        ledger.record_answers(subject, held.digest, LOSSES, list(losses))


def _kind(name: str) -> tuple[str, dict[str, Any]]:
    """Return the kind and the document of the baseline that has a name."""
    if name.startswith("majority"):
        return "majority", {"model": "", "answer": RIGHT}
    count = name.partition("+")[2].partition(" ")[0]
    more = {"count": int(count), "form": "text" if name.endswith("text") else "turns"} if count else {}
    return "few_shot" if count else "base", {"model": MODEL.name, **more}


def _become(ledger: Ledger, sweep: SweepRecord, record: TrialRecord, trained: Trained) -> None:
    if trained.state is JobState.PLANNED:
        return
    request = TuningRequest(
        record.key, f"t-{record.key[:8]}", MODEL, TuningHyperparameters(), 0, TemplateText(), (), ()
    )
    job = ledger.intend(request, "local", record.tokens, sweep=sweep.id)
    if job.state.is_finished:
        return
    ledger.submitted(job.id, JobRef("local", f"job-{record.key[:6]}"))
    curve = tuple(Snapshot(step, 1, 2.0 / step, 1_760_000_000.0 + step) for step in range(1, 5))
    ledger.record(job.id, JobStatus(JobState.RUNNING, curve))
    if trained.state is JobState.SUCCEEDED:
        tuned = TunedModel(f"tunedModels/t-{record.key[:8]}", MODEL, f"runs/{record.key[:8]}")
        metrics = {"validation/loss": 0.5 + record.number / 10, "validation/base_loss": 2.0}
        ledger.record(job.id, JobStatus(JobState.SUCCEEDED, (), metrics, tuned))
    elif trained.state is JobState.FAILED:
        failure = Failure(FailureKind.LOST, "the worker was killed")
        ledger.record(job.id, JobStatus(JobState.FAILED, failure=failure))
    elif trained.state.is_finished:
        ledger.record(job.id, JobStatus(trained.state))
