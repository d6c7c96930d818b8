"""Sweeps with everything that a record has, written into real ledgers by the ledger's own methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tracking.sweeps import MODEL, trial_config
from tunerun.digest import digest
from tunerun.examples import Example, ExampleSet
from tunerun.generation import GenerateOptions
from tunerun.job import (
    EpochLoss,
    JobRef,
    JobState,
    JobStatus,
    Snapshot,
    TemplateText,
    TrainedOn,
    TunedModel,
    TuningHyperparameters,
    TuningRequest,
)
from tunerun.ledger import BaselineRecord, Ledger, SweepRecord, TrialRecord, asked_by
from tunerun.planning.trial_key import KEY_FORMAT
from tunerun.provenance import Facts

RATE = "hyperparameters.learning_rate"
PLAIN = TemplateText()
TRAINING = tuple((str(n), str(n + 1)) for n in range(12))
VALIDATION = tuple((str(n), str(n + 1)) for n in range(100, 124))
TEST = tuple((str(n), str(n + 1)) for n in range(200, 224))

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Recorded:
    """The content of a sweep that is written into a ledger.

    Attributes:
        points: overrides of each trial.
        right: number of validation rows, from the first, that each trial answers correctly.
        bits: text from which the digest of every adapter is made; empty: the key of its trial.
        trained_on: what trained every job.
    """

    points: Sequence[Mapping[str, Any]] = ({RATE: 0.001},)
    training: Rows = TRAINING
    validation: Rows = VALIDATION
    test: Rows = ()
    template: TemplateText = PLAIN
    facts: Facts | None = None
    document: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "exact_match"
    right: int = 20
    first_loss: float = 2.0
    bits: str = ""
    trained_on: TrainedOn | None = None
    name: str = "support"

    def write(self, ledger: Ledger, sweep: str) -> list[TrialRecord]:
        """Freeze the sweep, then record its jobs, answers and losses."""
        sets = {
            name: self._rendered(rows)
            for name, rows in (("training", self.training), ("validation", self.validation), ("test", self.test))
            if rows
        }
        base = BaselineRecord(digest([sweep, "base"]), "base", "base", {"model": MODEL.name})
        trials = [self._trial(number, point, sets, base) for number, point in enumerate(self.points)]
        document = {
            "version": "0.1.0",
            "command": f"tunerun run experiment={self.name}",
            "code": {"commit": "0123456789abcdef", "branch": "main", "dirty": False, "changed": [], "diff": ""},
            "warnings": [],
            **({"facts": self.facts.to_json()} if self.facts else {}),
            **self.document,
        }
        ledger.freeze(SweepRecord(sweep, self.name, 1_760_000_000.0, document), trials, sets.values(), [base])
        for trial in trials:
            self._train(ledger, sweep, trial)
            for name, held_out in trial.held_out.items():
                rows = sets[name].examples
                if name == "validation":
                    answers = [row.output if n < self.right else "?" for n, row in enumerate(rows)]
                    ledger.record_answers(trial.key, held_out, trial.asked, answers)
                    ledger.record_answers(base.subject, held_out, trial.asked, ["?"] * len(rows))
        return trials

    def _rendered(self, rows: Rows) -> ExampleSet:
        template = self.template.text_input
        examples = tuple(Example(template.replace("{{ text_input }}", text), output) for text, output in rows)
        return ExampleSet(digest([[e.text_input, e.output] for e in examples]), "rows.jsonl", examples)

    def _trial(
        self, number: int, point: Mapping[str, Any], sets: Mapping[str, ExampleSet], base: BaselineRecord
    ) -> TrialRecord:
        config = trial_config(point, self.name).model_dump(mode="json")
        config["seed"] = point.get("seed", 0)
        config["template"] = {"text_input": self.template.text_input, "output": self.template.output}
        config["evaluation"]["metrics"] = [self.metric]
        hyperparameters = config["hyperparameters"]
        ingredients = {
            "format": KEY_FORMAT,
            "training": sets["training"].digest,
            "validation": sets["validation"].digest if "validation" in sets else None,
            "model": "gguf:sha256:" + "a" * 64,
            **{
                name: hyperparameters[name]
                for name in ("epoch_count", "batch_size", "learning_rate", "adapter_rank", "adapter_alpha")
            },
            "seed": config["seed"],
            "backend": {"kind": "local", "address": ""},
        }
        return TrialRecord(
            number=number,
            key=digest(ingredients),
            baselines=(base.subject,),
            asked=asked_by(GenerateOptions()),
            training=sets["training"].digest,
            held_out={name: each.digest for name, each in sets.items() if name != "training"},
            tokens=1200,
            steps=15,
            overrides=dict(point),
            config=config,
            ingredients=ingredients,
        )

    def _train(self, ledger: Ledger, sweep: str, trial: TrialRecord) -> None:
        request = TuningRequest(
            trial.key, f"t-{trial.key[:8]}", MODEL, TuningHyperparameters(), 0, TemplateText(), (), ()
        )
        job = ledger.intend(request, "local", trial.tokens, sweep=sweep)
        if job.state.is_finished:  # another sweep of this ledger has the same trial
            return
        ledger.submitted(job.id, JobRef("local", f"job-{trial.key[:6]}"))
        ledger.record(job.id, JobStatus(JobState.RUNNING))
        curve = tuple(Snapshot(s, (s - 1) // 3 + 1, self.first_loss / s, 1_760_000_000.0 + s) for s in range(1, 16))
        weights = digest(self.bits or trial.key)
        tuned = TunedModel(f"tunedModels/t-{trial.key[:8]}", MODEL, f"runs/t-{trial.key[:8]}", weights)
        metrics = {"train/seconds": 12.5, "validation/loss": 0.5, "tokens/train": 1200.0}
        losses = tuple(EpochLoss(epoch, 1 / epoch) for epoch in range(1, 6))
        ledger.record(
            job.id, JobStatus(JobState.SUCCEEDED, curve, metrics, tuned, validation=losses, trained_on=self.trained_on)
        )


def written(folder: Path, sweep: str, recorded: Recorded) -> list[TrialRecord]:
    """Write a sweep into the ledger of a runs folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with Ledger(folder / "ledger.db") as ledger:
        return recorded.write(ledger, sweep)
