"""An Experiment becomes a Plan: trials with keys, examples checked, tokens, steps, what is already done.

Pure: nothing is sent, nothing is written, nothing heavy is imported.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunerun.backends import open_backend
from tunerun.backends.base import Backend, Capabilities
from tunerun.code_version import code_version
from tunerun.dataset import LoadedDataset, load_examples
from tunerun.digest import digest
from tunerun.engine.base_model import cache_folder, find
from tunerun.engine.tokens import token_counter
from tunerun.errors import ConfigError, InputError
from tunerun.job import ExampleSet, JobState, TuningRequest
from tunerun.ledger import FILE_NAME, Ledger, SweepRecord, TrialRecord
from tunerun.redaction import redact
from tunerun.schema import BASE_LEARNING_RATE, Experiment, Point, Scalar, TrialConfig
from tunerun.template import PromptTemplate

KEY_FORMAT = 1
"""Version of what a key hashes; a change of it makes every trial a new one."""

SMALL_SET = 100
"""Examples below which 0.001 is a large learning rate (the Gemini API's tuning guide, as last served 2025-04-28)."""

_MAX_ID = 40
_KEY_DIGITS = 12


@dataclass(frozen=True)
class Trial:
    """One point of the sweep, ready to run.

    Attributes:
        key: the content hash of everything that can change the result, 64 hexadecimal digits.
        baseline: digest that trials share whose base model, held-out examples and template are the same.
        evaluation: digest of how the tuned model is measured.
        tokens: training tokens over all epochs, prompts included.
        steps: optimiser steps.
        same_as: the number of an earlier trial with the same key; None: there is none.
        done: whether a job of this key has succeeded already.
        failed: whether its last job failed by a fault of its own, and so is not run again by itself.
    """

    number: int
    key: str
    baseline: str
    evaluation: str
    overrides: Mapping[str, Scalar]
    config: TrialConfig
    training: ExampleSet
    validation: ExampleSet | None
    tokens: int
    steps: int
    same_as: int | None
    done: bool
    failed: bool

    def request(self) -> TuningRequest:
        """What a backend is asked to do for this trial."""
        return TuningRequest(
            key=self.key,
            tuned_model_id=tuned_model_id(self.config.name, self.key),
            model=self.config.model,
            hyperparameters=self.config.hyperparameters,
            seed=self.config.seed,
            template=self.config.template,
            training=self.training.examples,
            validation=self.validation.examples if self.validation else (),
        )

    def record(self) -> TrialRecord:
        """The trial as the ledger freezes it; passwords in the tracking URI are left out."""
        config = self.config.model_dump(mode="json")
        if self.config.tracking.uri is not None:
            config["tracking"]["uri"] = redact(self.config.tracking.uri)
        return TrialRecord(
            number=self.number,
            key=self.key,
            baseline=self.baseline,
            evaluation=self.evaluation,
            training=self.training.digest,
            validation=self.validation.digest if self.validation else None,
            tokens=self.tokens,
            steps=self.steps,
            overrides=self.overrides,
            config=config,
        )


@dataclass(frozen=True)
class Plan:
    """The frozen list of trials, before anything runs.

    Attributes:
        sweep: the id of the sweep: the experiment's name and a digest of its trials and how they are measured.
        tokens_exact: whether tokens were counted by the base model's own tokenizer; else they are an estimate.
        seconds: how long the trials that are not done will train, from what the ledger has seen of this model on
            this backend; None: it has seen none.
        warnings: what a user should know before running, one line each.
    """

    experiment: Experiment
    sweep: str
    trials: tuple[Trial, ...]
    tokens_exact: bool
    seconds: float | None
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment.name

    @property
    def runs(self) -> Path:
        """The folder of the ledger and the tuned models."""
        return Path(self.experiment.paths.runs)

    @property
    def ledger_path(self) -> Path:
        """The ledger's file."""
        return ledger_path(self.runs)

    @property
    def varied(self) -> list[str]:
        """The keys that the sweep varies."""
        return list(self.trials[0].overrides)

    def to_run(self, *, retry_failed: bool) -> list[Trial]:
        """The trials that a run would submit, those of equal keys once."""
        return [t for t in self.trials if t.same_as is None and not t.done and (retry_failed or not t.failed)]

    def sweep_record(self, command: str) -> SweepRecord:
        """The plan as the ledger freezes it, apart from its trials."""
        from tunerun import __version__

        document: dict[str, Any] = {
            "version": __version__,
            "command": redact(command),
            "code": code_version(),
            "varied": self.varied,
            "pins": dict(self.experiment.pins),
            "warnings": list(self.warnings),
            "tokens_exact": self.tokens_exact,
        }
        return SweepRecord(self.sweep, self.name, time.time(), document)

    def to_json(self) -> dict[str, Any]:
        """The plan as `plan --json` prints it."""
        return {
            "experiment": self.name,
            "sweep": self.sweep,
            "trials": [
                {
                    "number": trial.number,
                    "key": trial.key,
                    "overrides": dict(trial.overrides),
                    "examples": len(trial.training.examples),
                    "tokens": trial.tokens,
                    "steps": trial.steps,
                    "same_as": trial.same_as,
                    "done": trial.done,
                }
                for trial in self.trials
            ],
            "pins": dict(self.experiment.pins),
            "tokens_exact": self.tokens_exact,
            "seconds": self.seconds,
            "warnings": list(self.warnings),
        }


def ledger_path(runs: Path) -> Path:
    """The ledger's file in a runs folder."""
    return runs / FILE_NAME


def tuned_model_id(experiment: str, key: str) -> str:
    """The id of a trial's tuned model: the experiment's name and the first digits of the key.

    It matches `[a-z]([a-z0-9-]{0,38}[a-z0-9])?`, the Gemini API's rule (v1beta `tunedModels.create`).
    """
    slug = re.sub(r"[^a-z0-9]+", "-", experiment)[: _MAX_ID - _KEY_DIGITS - 1].strip("-")
    return f"{slug}-{key[:_KEY_DIGITS]}"


def plan(experiment: Experiment) -> Plan:
    """Check the examples and the limits of every trial, and say what running the experiment would do.

    Args:
        experiment: from `tunerun.load`.

    Raises:
        InputError: everything that is wrong with the experiment's data, templates or values, one line each.
        LedgerError: the ledger cannot be read.
    """
    points = experiment.points or (_only_point(experiment),)
    planner = _Planner(experiment)
    problems: dict[str, None] = {}
    trials: list[Trial] = []
    for number, point in enumerate(points):
        try:
            trials.append(planner.trial(number, point))
        except InputError as error:
            problems.update(dict.fromkeys(error.problems))
    if problems:
        raise InputError(list(problems))
    sweep = digest([experiment.name, [[t.key, t.baseline, t.evaluation] for t in trials]])
    return Plan(
        experiment=experiment,
        sweep=f"{experiment.name}-{sweep[:8]}",
        trials=tuple(trials),
        tokens_exact=planner.tokens_exact,
        seconds=planner.seconds(trials),
        warnings=tuple(dict.fromkeys(planner.warnings)),
    )


def _only_point(experiment: Experiment) -> Point:
    if experiment.sweep.axes:
        raise ConfigError("sweep.axes: only tunerun.load expands a sweep; load the experiment, or take the axes away")
    sections = {name: getattr(experiment, name) for name in TrialConfig.model_fields}
    return Point(overrides={}, config=TrialConfig(**sections))


@dataclass
class _Planner:
    """What the trials of one plan share, so that nothing is read or counted twice."""

    experiment: Experiment
    warnings: list[str] = field(default_factory=list)
    tokens_exact: bool = True

    def __post_init__(self) -> None:
        self.runs = Path(self.experiment.paths.runs)
        self.cache = cache_folder(self.experiment.paths.cache)
        self._backends: dict[str, Backend] = {}
        self._loaded: dict[str, LoadedDataset] = {}
        self._tokens: dict[tuple[str, str], int] = {}
        self._identities: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._states: dict[str, JobState] | None = None

    def trial(self, number: int, point: Point) -> Trial:
        config = point.config
        capabilities = self._capabilities(config)
        loaded = self._load(config, capabilities)
        self._check(config, loaded)
        hyperparameters = config.hyperparameters
        identity = self._identity(config)
        validation = loaded.validation.digest if loaded.validation else None
        place = {"kind": capabilities.kind, "address": capabilities.address}
        key = digest(
            {
                "format": KEY_FORMAT,
                "training": loaded.training.digest,
                "validation": validation,
                "model": identity,
                "epoch_count": hyperparameters.epoch_count,
                "batch_size": hyperparameters.batch_size,
                "learning_rate": hyperparameters.effective_learning_rate,
                "adapter_rank": hyperparameters.adapter_rank,
                "adapter_alpha": hyperparameters.adapter_alpha,
                "seed": config.seed,
                "backend": place,
            }
        )
        first = self._numbers.setdefault(key, number)
        tokens_per_epoch = self._count(config, identity, loaded.training)
        return Trial(
            number=number,
            key=key,
            baseline=digest({"model": identity, "validation": validation, "backend": place}),
            evaluation=digest({"validation": validation, **config.evaluation.model_dump(mode="json")}),
            overrides=point.overrides,
            config=config,
            training=loaded.training,
            validation=loaded.validation,
            tokens=tokens_per_epoch * hyperparameters.epoch_count,
            steps=math.ceil(len(loaded.training.examples) / hyperparameters.batch_size) * hyperparameters.epoch_count,
            same_as=None if first == number else first,
            done=self._state_of(key) is JobState.SUCCEEDED,
            failed=self._state_of(key) is JobState.FAILED,
        )

    def seconds(self, trials: list[Trial]) -> float | None:
        """How long what is not done will train; None where the ledger has seen nothing like it."""
        todo = [trial for trial in trials if not (trial.done or trial.failed) and trial.same_as is None]
        path = ledger_path(self.runs)
        if not todo:
            return 0.0
        if not path.exists():
            return None
        total = 0.0
        with Ledger(path) as ledger:
            for kind, model, tokens in _tokens_by_place(todo):
                rate = ledger.seconds_per_token(kind, model)
                if rate is None:
                    return None
                total += rate * tokens
        return total

    def _capabilities(self, config: TrialConfig) -> Capabilities:
        section = config.backend.model_dump_json()
        if section not in self._backends:
            self._backends[section] = open_backend(config.backend, self.runs, self.cache)
        return self._backends[section].capabilities()

    def _load(self, config: TrialConfig, capabilities: Capabilities) -> LoadedDataset:
        dataset = config.dataset
        seeded = dataset.limit is not None or dataset.validation.fraction > 0 or dataset.test.fraction > 0
        seed = config.seed if seeded else 0
        shared = digest([dataset.model_dump(), config.template.model_dump(), seed, config.backend.model_dump()])
        if shared not in self._loaded:
            loaded = load_examples(
                dataset,
                PromptTemplate(config.template),
                seed=seed,
                max_input_characters=capabilities.max_input_characters,
                max_output_characters=capabilities.max_output_characters,
            )
            self.warnings.extend(loaded.warnings)
            self._loaded[shared] = loaded
        return self._loaded[shared]

    def _check(self, config: TrialConfig, loaded: LoadedDataset) -> None:
        examples, hyperparameters = len(loaded.training.examples), config.hyperparameters
        if hyperparameters.batch_size > examples:
            raise ConfigError(
                f"hyperparameters.batch_size: {hyperparameters.batch_size} is more than the {examples} examples "
                f"of {loaded.training.source}; set it to {examples} or less"
            )
        if examples < SMALL_SET and hyperparameters.effective_learning_rate >= BASE_LEARNING_RATE:
            self.warnings.append(
                f"hyperparameters.learning_rate: {hyperparameters.effective_learning_rate:g} with {examples} examples; "
                f"the Gemini API's tuning guide advises a smaller value than {BASE_LEARNING_RATE:g} for a small set"
            )
        if config.evaluation.metrics and loaded.validation is None:
            self.warnings.append(
                "dataset.validation: nothing is held out, so the trials cannot be compared; "
                "set dataset.validation.path or dataset.validation.fraction"
            )

    def _identity(self, config: TrialConfig) -> str:
        section = config.model.model_dump_json()
        if section not in self._identities:
            found = find(config.model, self.cache)
            if found.path is None:
                self.warnings.append(f"model: {config.model.source} is not on this machine; a run fetches it")
            self._identities[section] = found.identity
        return self._identities[section]

    def _count(self, config: TrialConfig, identity: str, examples: ExampleSet) -> int:
        counted = (identity, examples.digest)
        if counted not in self._tokens:
            counter = token_counter(config.model, self.cache)
            self.tokens_exact = self.tokens_exact and counter.exact
            self._tokens[counted] = sum(counter.count_all(examples.examples))
        return self._tokens[counted]

    def _state_of(self, key: str) -> JobState | None:
        """The state of a key's last job, as the ledger had it when the plan was begun; None: it had none."""
        if self._states is None:
            path = ledger_path(self.runs)
            self._states = {}
            if path.exists():
                with Ledger(path) as ledger:
                    self._states = ledger.final_states()
        return self._states.get(key)


def _tokens_by_place(trials: list[Trial]) -> Iterator[tuple[str, str, int]]:
    totals: dict[tuple[str, str], int] = {}
    for trial in trials:
        place = (trial.config.backend.kind, trial.config.model.name)
        totals[place] = totals.get(place, 0) + trial.tokens
    for (kind, model), tokens in totals.items():
        yield kind, model, tokens
