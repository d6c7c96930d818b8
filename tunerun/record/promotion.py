"""Promotes a tuned model into MLflow's Model Registry, if the required conditions hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tunerun.comparison import judge
from tunerun.comparison.conditions import Candidate, Condition, unmet
from tunerun.comparison.judgement import TEST
from tunerun.comparison.results import TrialResult, Verdict
from tunerun.engine import base_model, tuned_model
from tunerun.engine.base_model import FoundModel
from tunerun.errors import InputError, LimitError, NotFoundError
from tunerun.export.model_card import model_card
from tunerun.job import JobState
from tunerun.ledger import JobRecord, Opening
from tunerun.locks import held
from tunerun.record.sources import OpenRecord
from tunerun.tracking.packaged import writing
from tunerun.tracking.registry import Registered, RegistryEntry, register
from tunerun.tracking.run_projection import experiment_of
from tunerun.tracking.store import Store

_LOCK = "promotion"


@dataclass(frozen=True)
class Wish:
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
    verdict = judge(record.ledger, record.sweep)
    trial = verdict.trials[_advised(verdict)] if record.number is None else _named(verdict, record.number)
    openings = record.ledger.openings(record.sweep.id)
    on_test = judge(record.ledger, record.sweep, held_out=TEST) if _is_opened(openings, trial) else None
    return Candidate(verdict, trial, on_test)


def _named(verdict: Verdict, number: int) -> TrialResult:
    return next(trial for trial in verdict.trials if trial.record.number == number)


def _is_opened(openings: Sequence[Opening], trial: TrialResult) -> bool:
    return any(trial.record.number in opening.points for opening in openings)


def _advised(verdict: Verdict) -> int:
    """The index in `verdict.trials` of the trial to promote."""
    sweep, advice = verdict.sweep, "or name a trial's run id or its tuned model"
    unfinished = sum(not trial.state.is_finished for trial in verdict.trials)
    if unfinished:
        raise InputError(
            f"{sweep.id}: {unfinished} of {len(verdict.trials)} trials are unfinished, and another point may be "
            f"advised when all are done; finish it: {sweep.command}, {advice}"
        )
    if verdict.best is None:
        raise LimitError(f"{sweep.id}: no point is advised: {verdict.sentence} To promote one anyway, {advice[3:]}")
    return verdict.best


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
    record: OpenRecord, candidate: Candidate, wish: Wish, store: Store, *, runs: Path, cache: Path
) -> Registered:
    """Write a trial's MLflow model, register it, and point the alias to it.

    Args:
        record: of the sweep.
        candidate: of the record, already checked.
        wish: name, alias and options.
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
    job = _job(record, candidate)
    held_out = ledger.example_set(trial.validation).examples if trial.validation is not None else ()
    source = writing.source_of(trial, job, held_out)
    if (fault := tuned_model.fault(source.folder, source.model.tuned_model.weights, cache)) is not None:
        raise NotFoundError(f"trial {trial.number}: {fault}; to make it again: {record.sweep.command_afresh}")
    base = base_model.find(tuned_model.read(source.folder).base_model, cache) if wish.with_base else None
    # In the runs folder: a base model may not fit into the system's temporary folder.
    with held(runs, _LOCK), TemporaryDirectory(prefix=".promotion-", dir=runs) as folder:
        package = writing.write(Path(folder) / "model", source, base=base)
        return register(store, _entry(record, candidate, wish, package, base))


def _job(record: OpenRecord, candidate: Candidate) -> JobRecord:
    job = record.ledger.job(candidate.trial.record.key)
    if job is None or job.state is not JobState.SUCCEEDED:
        raise NotFoundError(
            f"trial {candidate.trial.record.number} of {record.sweep.id} is {candidate.trial.state}; only a trial that "
            "has succeeded can be promoted"
        )
    return job


def _entry(
    record: OpenRecord, candidate: Candidate, wish: Wish, package: writing.Package, base: FoundModel | None
) -> RegistryEntry:
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
    origin = f"Trial {trial.number} of sweep `{record.sweep.id}`, `{name}`."
    return RegistryEntry(
        name=wish.name,
        alias=wish.alias,
        package=package,
        model=name.rpartition("/")[2],
        experiment=experiment_of(record.sweep),
        key=trial.key,
        sweep=record.sweep.id,
        tags=tags,
        description=_without_front_matter(
            model_card(record, trial, format="mlflow", file=f"models:/{wish.name}@{wish.alias}")
        ),
        version_description="\n\n".join([*sentences, origin]),
    )


def _without_front_matter(card: str) -> str:
    """The Markdown of a model card without its YAML header, which MLflow's page would show as text."""
    return card.partition("\n---\n")[2].lstrip() if card.startswith("---\n") else card
