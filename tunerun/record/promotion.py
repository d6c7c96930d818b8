"""Promotes a tuned model into MLflow's Model Registry, if the required conditions hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tunerun.comparison import judge
from tunerun.comparison.conditions import Candidate, Condition, unmet
from tunerun.comparison.judgement import TEST
from tunerun.engine import base_model, tuned_model
from tunerun.engine.base_model import FoundModel
from tunerun.errors import InputError, LimitError, NotFoundError
from tunerun.export.model_card import model_card
from tunerun.job import JobState
from tunerun.locks import held
from tunerun.record.sources import OpenRecord
from tunerun.tracking.packaged import writing
from tunerun.tracking.registry import Registered, RegistryEntry, register
from tunerun.tracking.store import Store

_LOCK = "promotion"


@dataclass(frozen=True)
class PromotionRequest:
    """A request to promote a model.

    Attributes:
        name: of the registered model.
        alias: that will point to the new version.
        conditions: all of them must hold.
        with_base: whether to include a copy of the base model.
    """

    name: str
    alias: str
    conditions: Sequence[Condition] = ()
    with_base: bool = False


def candidate_of(record: OpenRecord) -> Candidate:
    """Return the trial that a record names, or else the first trial of the advised point, with the sweep's verdict.

    Args:
        record: of a sweep or a trial.

    Raises:
        InputError: no trial was named and the sweep is unfinished.
        LimitError: no trial was named and no point of the sweep is advised.
        ConfigError, MetricError: as in `judge`.
    """
    verdict, sweep = judge(record.ledger, record.sweep), record.sweep
    # A trial that was named may be promoted whatever the verdict advises: the conditions are for that.
    if record.number is None:
        advice = "name a trial's run id or its tuned model"
        unfinished = sum(not trial.state.is_finished for trial in verdict.trials)
        if unfinished:
            raise InputError(
                f"{sweep.id}: {unfinished} of {len(verdict.trials)} trials are unfinished, and another point may be "
                f"advised when all are done; finish it: {sweep.command}, or {advice}"
            )
        if verdict.best is None:
            raise LimitError(f"{sweep.id}: no point is advised: {verdict.sentence} To promote one anyway, {advice}")
        trial = verdict.trials[verdict.best]
    else:
        trial = next(trial for trial in verdict.trials if trial.record.number == record.number)
    # Only `compare --final` opens the test set; a promotion reports what is measured.
    is_opened = any(trial.record.number in opening.points for opening in record.ledger.openings(sweep.id))
    return Candidate(verdict, trial, judge(record.ledger, sweep, held_out=TEST) if is_opened else None)


def check(candidate: Candidate, conditions: Sequence[Condition]) -> None:
    """Reject a trial that does not meet every condition.

    Raises:
        LimitError: the message names the unmet conditions and the reasons.
        ConfigError: as in `conditions.unmet`.
    """
    problems = unmet(conditions, candidate)
    if problems:
        number = candidate.trial.record.number
        raise LimitError(
            f"trial {number} of {candidate.verdict.sweep.id} was not promoted: {'; '.join(problems)}. The verdict: "
            f"{candidate.verdict.sentence}"
        )


def promote(
    record: OpenRecord, candidate: Candidate, request: PromotionRequest, store: Store, *, runs: Path, cache: Path
) -> Registered:
    """Write a trial's MLflow model, register it, and point the alias to it.

    Args:
        record: of the sweep.
        candidate: of the record, already checked.
        request: name, alias and options.
        store: the MLflow store with the registry.
        runs: this project's runs folder, whose lock serialises promotions.
        cache: folder of base models.

    Raises:
        NotFoundError: the trial has no tuned model, or its adapter is missing or changed on this machine.
        BaseModelError: the base model is to be included, but is missing or a different one.
        LockedError: another process is promoting.
        TrackingError: as in `registry.register`.
    """
    trial, ledger = candidate.trial.record, record.ledger
    job = ledger.job(trial.key)
    if job is None or job.state is not JobState.SUCCEEDED:
        raise NotFoundError(
            f"trial {trial.number} of {record.sweep.id} is {candidate.trial.state}; only a trial that has succeeded "
            "can be promoted"
        )
    held_out = ledger.example_set(trial.validation).examples if trial.validation is not None else ()
    source = writing.source_of(trial, job, held_out)
    if (fault := tuned_model.fault(source.folder, source.model.tuned_model.weights, cache)) is not None:
        raise NotFoundError(f"trial {trial.number}: {fault}; to make it again: {record.sweep.command_afresh}")
    base = base_model.find(tuned_model.read(source.folder).base_model, cache) if request.with_base else None
    # In the runs folder: a base model may not fit into the system's temporary folder, and its files are linked rather
    # than copied where they are on the same disk.
    with held(runs, _LOCK), TemporaryDirectory(prefix=".promotion-", dir=runs) as folder:
        package = writing.write(Path(folder) / "model", source, base=base)
        return register(store, _entry(record, candidate, request, package, base))


def _entry(
    record: OpenRecord,
    candidate: Candidate,
    request: PromotionRequest,
    package: writing.Package,
    base: FoundModel | None,
) -> RegistryEntry:
    # The tags lead from the registry back to the record: `tunerun rerun --run` takes the sweep and the tuned model.
    trial, verdict = candidate.trial.record, candidate.verdict
    tuned = candidate.trial.tuned_model
    name = "" if tuned is None else tuned.name
    sentences = [verdict.sentence, *([candidate.on_test.sentence] if candidate.on_test is not None else [])]
    tags = {
        "tunerun.tuned_model": name,
        "tunerun.key": trial.key,
        "tunerun.sweep": record.sweep.id,
        "tunerun.trial": str(trial.number),
        "tunerun.point": str(candidate.trial.point),
        "tunerun.base_model": trial.settings.model if base is None else f"{trial.settings.model} (a copy is inside)",
        "tunerun.verdict": " ".join(sentences),
    }
    card = model_card(record, trial, format="mlflow", file=f"models:/{request.name}@{request.alias}")
    if card.startswith("---\n"):  # MLflow's page would show the YAML header as text
        card = card.partition("\n---\n")[2].lstrip()
    origin = f"Trial {trial.number} of sweep `{record.sweep.id}`, `{name}`."
    return RegistryEntry(
        name=request.name,
        alias=request.alias,
        package=package,
        model=name.rpartition("/")[2],
        experiment=record.sweep.mlflow_experiment,
        key=trial.key,
        sweep=record.sweep.id,
        tags=tags,
        description=card,
        version_description="\n\n".join([*sentences, origin]),
    )
