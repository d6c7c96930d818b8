"""The ledger's records as frozen dataclasses.

Plans and openings are written under these names of fields into the files of `portable.py` too. So a field is never
renamed, and a new one has a default: files of earlier versions lack it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tunerun.generation import GenerateOptions
from tunerun.job import Failure, JobRef, JobState, Scalar, TemplateText, TrainedOn, TunedModel, TuningHyperparameters
from tunerun.stored import read_stored, section


class StoredObject(Mapping[str, Any]):
    """A stored JSON object that is parsed on first access.

    Args:
        text: the JSON.
        read: parses it into a dictionary.
    """

    # A sweep may have thousands of trials, and a command looks into the configs of a few.
    def __init__(self, text: str, read: Callable[[str], dict[str, Any]]) -> None:
        self._text = text
        self._read = read

    @cached_property
    def _values(self) -> dict[str, Any]:
        return self._read(self._text)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


@dataclass(frozen=True)
class SweepRecord:
    """A frozen plan.

    Attributes:
        experiment: its name in the config.
        created_at: in seconds since 1970 (UTC).
        document: what applies to the sweep as a whole, as JSON values.
    """

    id: str
    experiment: str
    created_at: float
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mlflow_experiment(self) -> str:
        """The name of its MLflow experiment."""
        return self.document.get("mlflow_experiment") or self.experiment

    @property
    def rerun(self) -> str:
        """The id that distinguishes a rerun from other sweeps of the same keys, in any ledger; empty: not a rerun."""
        return str(self.document.get("rerun") or "")

    @property
    def command(self) -> str:
        """The command that the sweep was started with."""
        return str(self.document.get("command", "tunerun run"))

    @property
    def command_afresh(self) -> str:
        """The command that trains every trial again, also those that have succeeded."""
        return self.command if "--fresh" in self.command else f"{self.command} --fresh"


@dataclass(frozen=True)
class TrialSettings:
    """The part of a trial's stored config that is read back; keys that the writing version lacked have defaults.

    Attributes:
        name: of the experiment.
        model: name of the base model.
        dataset: path of the rows.
        backend: the stored section; `tunerun.backends.stored_section` makes today's of it.
        evaluation: the stored section: how answers are measured.
        cache: folder of converted base models; None: the user's cache directory.
    """

    name: str
    seed: int
    model: str
    dataset: str
    backend: Mapping[str, Any]
    template: TemplateText
    hyperparameters: TuningHyperparameters
    evaluation: Mapping[str, Any]
    generation: GenerateOptions
    cache: str | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TrialSettings:
        """Read the settings from a stored config."""
        evaluation = section(config, "evaluation")
        return cls(
            name=config.get("name", ""),
            seed=config.get("seed", 0),
            model=section(config, "model").get("name", ""),
            dataset=section(config, "dataset").get("path", ""),
            backend=section(config, "backend"),
            template=read_stored(TemplateText, section(config, "template")),
            hyperparameters=read_stored(TuningHyperparameters, section(config, "hyperparameters")),
            evaluation=evaluation,
            generation=read_stored(GenerateOptions, section(evaluation, "generation")),
            cache=section(config, "paths").get("cache"),
        )


@dataclass(frozen=True)
class TrialRecord:
    """A frozen trial.

    Attributes:
        baselines: the subjects that it is compared with, as the sweep's `BaselineRecord`s name them.
        asked: digest of how answers are obtained (`tunerun.ledger.answers`); with a subject and a held-out set it names
            them.
        training: digest of the training examples.
        held_out: digests of the held-out sets, by name: `validation`, `test`; empty where nothing is held out.
        tokens: training tokens over all epochs.
        steps: optimiser steps.
        config: the trial's whole config as the version that froze it wrote it, to be shown; read it by `settings`.
        ingredients: the values that its key hashes, as JSON values; empty in ledgers of format 1.
    """

    number: int
    key: str
    baselines: tuple[str, ...]
    asked: str
    training: str
    held_out: Mapping[str, str]
    tokens: int
    steps: int
    overrides: Mapping[str, Scalar]
    config: Mapping[str, Any]
    ingredients: Mapping[str, Any] = field(default_factory=dict)

    @property
    def validation(self) -> str | None:
        """The digest of the validation set; None: there is none."""
        return self.held_out.get("validation")

    @property
    def number_format(self) -> str:
        """Of the frozen weights in training, such as `float32`; empty: a service trained it, or it was not recorded."""
        return str(self.ingredients.get("precision", ""))

    @cached_property
    def settings(self) -> TrialSettings:
        """The settings of the config, whichever version wrote it."""
        return TrialSettings.of(self.config)


@dataclass(frozen=True)
class BaselineRecord:
    """A baseline of a sweep, as it was frozen with the sweep.

    Attributes:
        subject: the key of its answers.
        name: what tables call it.
        kind: which baseline of the registry it is.
        document: what `baselines.registry.restored` makes it from, as JSON values.
    """

    subject: str
    name: str
    kind: str
    document: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Opening:
    """An opening of a sweep's test set.

    Attributes:
        sweep: the one that opened it; several may share a test set.
        opened_at: in seconds since 1970 (UTC).
        points: the numbers of the trials whose models were asked, all replicates of the point.
        held_out: the digests of the test sets that they were asked.
    """

    sweep: str
    opened_at: float
    points: tuple[int, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class JobRecord:
    """A job: one attempt to tune the trials of one key.

    Attributes:
        sweep: the sweep whose runner submits and watches it; None in ledgers of format 1.
        tuned_model_id: the id it is submitted under and found by after an ambiguous submit, also by a sweep of another
            name that takes it over; None in ledgers of formats 1 and 2.
        trained_on: what trained it; None: a service did, it has not begun, or the ledger was of formats 1 to 4 then.
    """

    id: int
    key: str
    attempt: int
    state: JobState
    ref: JobRef | None
    metrics: Mapping[str, float]
    tuned_model: TunedModel | None
    failure: Failure | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    sweep: str | None = None
    tuned_model_id: str | None = None
    trained_on: TrainedOn | None = None

    @property
    def began_at(self) -> float | None:
        """When training began, in seconds since 1970 (UTC); None: not yet."""
        # A short job may begin and end between two polls, so that no poll saw it running: then its creation.
        if self.started_at is None and self.state.is_finished:
            return self.created_at
        return self.started_at


@dataclass(frozen=True)
class Spending:
    """The cost of some jobs.

    Attributes:
        jobs: how many.
        tokens: training tokens.
        usd: US dollars.
    """

    jobs: int
    tokens: int
    usd: float


@dataclass(frozen=True)
class TrialProgress:
    """The progress of a trial, without its curve and its answers: cheap to poll.

    Attributes:
        attempt: of its last job; 0 where there is none yet.
        state: of its last job; PLANNED where there is none yet.
        last_step: the highest step of that job's loss curve; 0 before the first snapshot.
        finished_at: when that job finished, in seconds since 1970 (UTC); None: it has not.
        evaluated_at: when it answered the validation set last, in the same unit; None: it was not asked.
        tested_at: the same of the test set.
        runner: the sweep whose runner watches that job; None without a job, and in ledgers of format 1.
    """

    number: int
    attempt: int
    state: JobState
    last_step: int
    finished_at: float | None
    evaluated_at: float | None
    runner: str | None = None
    tested_at: float | None = None


@dataclass(frozen=True)
class Mark:
    """What was sent to a tracker of one subject.

    Attributes:
        run_id: the tracker's id of the run; None: not recorded.
        document: by part of the run what was sent, as JSON values.
    """

    run_id: str | None
    document: Mapping[str, Any]
