"""One small sweep of the tiny model, run with workers of any kind, and its exact results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.experiments import planned
from tunerun.job import JobState
from tunerun.ledger import Ledger
from tunerun.planning import Plan
from tunerun.runner import run
from tunerun.runner.progress import Progress

AXES = ("hyperparameters.learning_rate=0.01,0.001", "seed=0,1")


@dataclass(frozen=True)
class Outcome:
    """The results of a trial.

    Attributes:
        weights: the digest of its adapter, as recorded in the ledger.
    """

    weights: str | None
    losses: tuple[float, ...]
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.weights is not None
        assert self.losses


def outcomes(folder: Path, model: Path, *options: str, progress: Progress | None = None) -> Mapping[str, Outcome]:
    """Run four trials on thirty examples, on one thread, and return each one's results by its settings."""
    plan = sweep(folder, model, *options)
    result = run(plan, progress=progress)
    assert result.exit_code == 0, str(result.verdict)
    assert result.faults == ()
    return found(plan)


def sweep(folder: Path, model: Path, *options: str) -> Plan:
    """Return the plan of the four trials."""
    folder.mkdir(exist_ok=True)
    return planned(
        folder,
        "model=huggingface",
        f"model.name={model}",
        "backend.device=cpu",
        "backend.threads=1",
        "backend.packing=off",
        "hyperparameters.epoch_count=4",
        "evaluation.generation.max_output_tokens=4",
        "evaluation.baselines.examples=[0]",
        *AXES,
        *options,
    )


def found(plan: Plan) -> dict[str, Outcome]:
    """Return the results of the trials that have succeeded."""
    found = {}
    with Ledger(plan.ledger_path, read_only=True) as ledger:
        for trial in plan.trials:
            job = ledger.job(trial.key)
            if job is None or job.state is not JobState.SUCCEEDED:
                continue
            answers = ledger.answers(trial.key, str(trial.record().validation), trial.answer_method)
            assert job.tuned_model is not None
            assert answers is not None
            losses = tuple(snapshot.mean_loss for snapshot in ledger.snapshots(job.id))
            point = f"{trial.config.hyperparameters.learning_rate} {trial.config.seed}"
            found[point] = Outcome(job.tuned_model.weights, losses, tuple(answers.texts))
    return found
