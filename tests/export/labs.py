"""Tuned models in a ledger, trained in this process on a tiny base model: all of it takes a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.engine import training
from tests.engine.observer import Recording
from tests.engine.tiny_model import EXAMPLES, HELD_OUT, model_of, request_of
from tunerun.digest import digest
from tunerun.engine import export_answers, network, tuned_model
from tunerun.engine.network import LoadedModel
from tunerun.engine.observer import Trained
from tunerun.examples import ExampleSet
from tunerun.generation import GenerateOptions
from tunerun.job import JobRef, JobState, JobStatus, TunedModel, TuningRequest
from tunerun.ledger import Ledger, SweepRecord, TrialRecord, asked_by
from tunerun.record import OpenRecord

OPTIONS = GenerateOptions(max_output_tokens=6)
HELD = (*HELD_OUT, *EXAMPLES[:4])


@dataclass(frozen=True)
class Lab:
    """One sweep of one trial, with its tuned model and what that answered.

    Attributes:
        base: the base model's folder.
    """

    ledger: Ledger
    sweep: SweepRecord
    trial: TrialRecord
    base: Path
    tuned: TunedModel
    answers: tuple[str, ...]

    @property
    def record(self) -> OpenRecord:
        return OpenRecord(self.ledger, self.sweep, None, "a test")


class _Keeping(Recording):
    """Writes a tuned model's whole folder, as the engine's own process does."""

    def __init__(self, base: LoadedModel, folder: Path) -> None:
        super().__init__()
        self._base = base
        self._runs = folder

    def trained(self, request: TuningRequest, trained: Trained) -> None:
        record = tuned_model.record_of(request, self._base.identity, self._base.chat)
        finished = tuned_model.FinishedJob("job")

        def save(folder: Path) -> None:
            trained.adapter.save(self._base.public_name, folder)

        tuned_model.write(self._runs / "tuned_models" / request.tuned_model_id, record, finished, save)


def trained(base: Path, runs: Path, cache: Path, **hyperparameters: Any) -> Path:
    """Tune a base model; the tuned model's folder."""
    torch.set_num_threads(1)
    model = model_of(base)
    request = request_of(model, **{"epoch_count": 25, "learning_rate": 0.01} | hyperparameters)
    loaded = network.load(model, cache, network.choose_device("cpu"))
    (outcome,) = training.train([request], loaded, _Keeping(loaded, runs))
    assert outcome.state is JobState.SUCCEEDED, outcome.failure
    return runs / "tuned_models" / request.tuned_model_id


def lab_of(base: Path, runs: Path, cache: Path) -> Lab:
    """Tune a base model, and write a ledger as if a sweep had done it."""
    folder = trained(base, runs, cache)
    model, request = model_of(base), request_of(model_of(base))
    answers = export_answers.of_tuned(folder, model, cache, [each.text_input for each in HELD], OPTIONS)
    held_out = ExampleSet(digest("held out"), "rows.jsonl", HELD)
    training_set = ExampleSet(digest("training"), "rows.jsonl", EXAMPLES)
    trial = TrialRecord(
        number=0,
        key=request.key,
        baselines=(),
        asked=asked_by(OPTIONS),
        training=training_set.digest,
        held_out={"validation": held_out.digest},
        tokens=100,
        steps=4,
        overrides={},
        config={
            "name": "numbers",
            "model": {"name": str(base), "source": str(base)},
            "evaluation": {"metrics": ["exact_match"], "generation": {"max_output_tokens": OPTIONS.max_output_tokens}},
            "paths": {"cache": str(cache)},
        },
    )
    sweep = SweepRecord("numbers-1a2b3c4d", "numbers", 1_760_000_000.0, {"command": "tunerun run", "version": "0.1.0"})
    ledger = Ledger(runs / "ledger.db")
    ledger.freeze(sweep, [trial], [training_set, held_out], [])
    job = ledger.intend(request, "local", 100, sweep=sweep.id)
    ledger.submitted(job.id, JobRef("local", "job"))
    weights = tuned_model.read(folder).weights
    tuned = TunedModel(f"tunedModels/{folder.name}", model, str(folder), weights)
    ledger.record(job.id, JobStatus(JobState.SUCCEEDED, tuned_model=tuned))
    ledger.record_answers(trial.key, held_out.digest, trial.asked, answers)
    return Lab(ledger, sweep, trial, base, tuned, tuple(answers))
