"""Sweeps written into real ledgers by the ledger's own methods, and shown in real MLflow stores."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunerun.backends.local import LocalSection
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
    Snapshot,
    TemplateText,
    TunedModel,
    TuningHyperparameters,
    TuningRequest,
)
from tunerun.ledger import BaselineRecord, Ledger, SweepRecord, TrialRecord, asked_by
from tunerun.schema import DatasetSection, HyperparametersSection, Model, TrialConfig
from tunerun.tracking import Tracker

MODEL = BaseModelRef(name="smollm2-135m", source="HuggingFaceTB/SmolLM2-135M-Instruct")
TRAINING = tuple(Example(str(n), str(n + 1)) for n in range(15))
HELD_OUT = (Example("20", "21"), Example("zwölf", "dreizehn"))
STEPS_PER_EPOCH = 4
FROZEN_AT = 1_760_000_000.0


@dataclass
class Lab:
    """A ledger and one sweep in it, and what can happen to its trials."""

    ledger: Ledger
    sweep: SweepRecord
    trials: Sequence[TrialRecord]
    held_out: Sequence[Example] = HELD_OUT

    def start(self, number: int) -> int:
        """Submit a trial and let it run; returns its job."""
        trial = self.trials[number]
        request = TuningRequest(
            trial.key, f"t-{trial.key[:8]}", MODEL, TuningHyperparameters(), 0, TemplateText(), TRAINING, HELD_OUT
        )
        job = self.ledger.intend(request, "local", trial.tokens, sweep=self.sweep.id)
        self.ledger.submitted(job.id, JobRef("local", f"job-{trial.key[:6]}-{job.attempt}"))
        self.ledger.record(job.id, JobStatus(JobState.RUNNING))
        return job.id

    def steps(self, number: int, upto: int, *, offset_s: float = 0.0) -> None:
        """Let the running job of a trial reach a step."""
        self.ledger.record(self.job(number), JobStatus(JobState.RUNNING, self.curve(number, upto, offset_s)))

    def curve(self, number: int, upto: int, offset_s: float = 0.0) -> tuple[Snapshot, ...]:
        """A loss curve that falls, the slower the higher the trial's number."""
        return tuple(
            Snapshot(
                step=step,
                epoch=(step - 1) // STEPS_PER_EPOCH + 1,
                mean_loss=2.2 * math.exp(-step / (6 + 4 * number)) + 0.15 + 0.1 * math.sin(step * 2.4 + number),
                compute_time=FROZEN_AT + 100 * number + step * 0.5 + offset_s,
            )
            for step in range(1, upto + 1)
        )

    def succeed(self, number: int, metrics: Mapping[str, float] | None = None, location: str | None = None) -> None:
        """Let a trial end well, with all its snapshots; what is measured besides the usual, and where its model is."""
        trial = self.trials[number]
        name = f"tunedModels/t-{trial.key[:8]}"
        self.ledger.record(
            self.job(number),
            JobStatus(
                JobState.SUCCEEDED,
                self.curve(number, trial.steps),
                {
                    "train/seconds": 12.5,
                    "validation/loss": 0.4 + number / 10,
                    "validation/base_loss": 1.9,
                    **(metrics or {}),
                },
                TunedModel(name, MODEL, location or f"runs/models/{name.rpartition('/')[2]}"),
            ),
        )

    def fail(self, number: int, message: str = "the worker was killed", kind: FailureKind = FailureKind.LOST) -> None:
        """Let a trial fail."""
        failure = Failure(kind, message, f"Traceback (most recent call last):\n{message}")
        self.ledger.record(self.job(number), JobStatus(JobState.FAILED, failure=failure))

    def cancel(self, number: int) -> None:
        """Cancel a trial."""
        self.ledger.record(self.job(number), JobStatus(JobState.CANCELLED))

    def measure(self, number: int, right: int) -> None:
        """Evaluate a trial: so many of the held-out examples are right."""
        trial = self.trials[number]
        self.ledger.record_answers(trial.key, str(trial.validation), trial.asked, self.answers(right))

    def answers(self, right: int) -> list[str]:
        """Answers to the held-out examples, of which the first so many are right."""
        return [example.output if position < right else "?" for position, example in enumerate(self.held_out)]

    def measure_base(self) -> None:
        """Evaluate the base model, which knows nothing."""
        trial = self.trials[0]
        self.ledger.record_answers(trial.baselines[0], str(trial.validation), trial.asked, self.answers(0))

    def finish(self, number: int, right: int = 1, location: str | None = None) -> None:
        """All that happens to a trial that goes well."""
        self.start(number)
        self.succeed(number, location=location)
        self.measure(number, right)

    def job(self, number: int) -> int:
        """The last job of a trial."""
        job = self.ledger.job(self.trials[number].key)
        assert job is not None
        return job.id


def trial_config(overrides: Mapping[str, Any], name: str = "next-number", **sections: Any) -> TrialConfig:
    """The config of a trial."""
    hyperparameters = {key.rpartition(".")[2]: v for key, v in overrides.items() if key.startswith("hyperparameters.")}
    return TrialConfig(
        name=name,
        dataset=DatasetSection(path="data/next_number.json"),
        model=Model(name=MODEL.name, source=MODEL.source),
        hyperparameters=HyperparametersSection(**hyperparameters),
        backend=LocalSection(kind="local"),
        **sections,
    )


def grid(count: int) -> list[dict[str, Any]]:
    """So many different overrides."""
    rates = (0.001, 0.0005, 0.0002, 0.0001)
    return [
        {"hyperparameters.learning_rate": rates[n % 4], "hyperparameters.epoch_count": 3 + n // 4} for n in range(count)
    ]


def freeze(
    ledger: Ledger,
    sweep_id: str = "next-number-1a2b3c4d",
    points: Sequence[Mapping[str, Any]] | None = None,
    *,
    name: str = "next-number",
    document: Mapping[str, Any] | None = None,
    created_at: float = FROZEN_AT,
    max_output_tokens: int = 64,
    rows: Sequence[str] | None = None,
    validation: Sequence[Example] = HELD_OUT,
    test: Sequence[Example] = (),
    metric: str = "exact_match",
    **sections: Any,
) -> Lab:
    """Freeze a sweep of three trials, or of the given points."""
    points = grid(3) if points is None else points
    examples = TRAINING if rows is None else tuple(Example(row, row) for row in rows)
    training = ExampleSet(digest([[e.text_input, e.output] for e in examples]), "data/next_number.json", examples)
    held_out = {
        each: ExampleSet(digest([[e.text_input, e.output] for e in held]), f"data/{source}.json", tuple(held))
        for each, source, held in (("validation", "held_out", validation), ("test", "test", test))
        if held
    }
    trials = [
        TrialRecord(
            number=number,
            key=digest([name, dict(overrides)]),
            baselines=(digest([name, "base"]),),
            asked=asked_by(GenerateOptions(max_output_tokens)),
            training=training.digest,
            held_out={each: held.digest for each, held in held_out.items()},
            tokens=1200,
            steps=STEPS_PER_EPOCH * overrides.get("hyperparameters.epoch_count", 5),
            overrides=dict(overrides),
            config=_with_metric(trial_config(overrides, name, **sections), metric),
        )
        for number, overrides in enumerate(points)
    ]
    sweep = SweepRecord(
        sweep_id,
        name,
        created_at,
        {
            "version": "0.1.0",
            "command": "tunerun run experiment=next_number",
            "code": {"commit": "0123456789abcdef", "branch": "main", "dirty": True, "diff": "+seed: 2"},
            "varied": list(points[0]),
            "pins": {},
            "warnings": [],
            "tokens_exact": True,
            **(document or {}),
        },
    )
    base = BaselineRecord(digest([name, "base"]), "base", "base", {"model": MODEL.name, "words": "the base model"})
    ledger.freeze(sweep, trials, [training, *held_out.values()], [base])
    return Lab(ledger, sweep, trials, tuple(validation))


def _with_metric(config: TrialConfig, metric: str) -> dict[str, Any]:
    document = config.model_dump(mode="json")
    document["evaluation"]["metrics"] = [metric]
    return document


def complete(lab: Lab) -> None:
    """Everything that can happen to three trials: one goes well, one is tried twice, one fails for good."""
    lab.finish(0, right=2)
    lab.start(1)
    lab.steps(1, 6)
    lab.fail(1)
    lab.start(1)
    lab.steps(1, 9, offset_s=50.0)
    lab.succeed(1)
    lab.measure(1, 1)
    lab.start(2)
    lab.steps(2, 5)
    lab.fail(2, "the loss became nan at step 6", FailureKind.DIVERGED)
    lab.measure_base()


@dataclass(frozen=True)
class SyncedSweep:
    """A sweep and the MLflow store that is up to date with it, for tests that only read; its ledger is closed.

    Attributes:
        lab: the sweep.
        uri: of the store.
    """

    lab: Lab
    uri: str


def synced_sweep(folder: Path, made_store: Path, fill: Callable[[Ledger], Lab]) -> SyncedSweep:
    """Fill a ledger and bring a copy of the store up to date with it."""
    shutil.copy(made_store, folder / "mlflow.db")
    with Ledger(folder / "runs" / "ledger.db") as ledger:
        lab = fill(ledger)
    tracker = Tracker(ledger.path, f"sqlite:///{folder / 'mlflow.db'}")
    assert tracker.sync().problem is None
    return SyncedSweep(lab, tracker.uri)
