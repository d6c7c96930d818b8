"""The points of an experiment become trials: examples checked, keys made, tokens counted, what is done looked up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from heapq import nlargest
from pathlib import Path
from statistics import fmean
from typing import Any

from tunerun.backends import capabilities_of
from tunerun.backends.base import Capabilities
from tunerun.code_version import code_version
from tunerun.dataset import LoadedDataset, Progress, TokenLimit, load_examples
from tunerun.dataset.advice import MOST_PLACES
from tunerun.digest import digest, digest_of_list
from tunerun.engine import base_model, chat_template, model_facts, target_modules
from tunerun.engine.base_model import FoundModel, cache_folder, find
from tunerun.engine.tokens import EstimatedCounter, TokenCounter, token_counter
from tunerun.errors import BaseModelError, ConfigError, DatasetError, LimitError, MissingPackageError
from tunerun.job import Example, ExampleSet, JobState, TuningHyperparameters, texts_of
from tunerun.planning.baselines import Group, PlannedBaseline, planned_baselines
from tunerun.planning.history import History
from tunerun.planning.measuring import Measuring, measuring
from tunerun.planning.memory import Load, PlannedMemory, planned_memory
from tunerun.planning.recorded import NOTHING, Recorded
from tunerun.planning.trial import Trial
from tunerun.redaction import redact
from tunerun.schema import BASE_LEARNING_RATE, Experiment, Point, Section, TrialConfig
from tunerun.template import PromptTemplate

KEY_FORMAT = 2
"""Version of what a key hashes; a change of it makes every trial a new one."""

SMALL_SET = 100
"""Examples below which 0.001 is a large learning rate (the Gemini API's tuning guide, as last served 2025-04-28)."""

RETIRES_SOON_DAYS = 60

LONGEST_KEPT = 1024
"""Lengths of the longest examples that are remembered; a larger batch counts as if all of its rows had their mean."""


@dataclass
class Planner:
    """What the trials of one plan share, so that nothing is read, counted or digested twice.

    Sections of the config that points share are one object, so much is remembered by identity; the experiment keeps
    them alive.

    Attributes:
        round: how often everything was begun anew under this name.
        most_places: places that one finding in the data names.
        progress: is given what is done next.
        needs_base_model: whether a base model that cannot be found is an error; else tokens are estimated.
        recorded: what is taken from the record of another sweep.
    """

    experiment: Experiment
    history: History
    round: int
    most_places: int = MOST_PLACES
    progress: Progress | None = None
    warnings: list[str] = field(default_factory=list)
    tokens_exact: bool = True
    needs_base_model: bool = True
    recorded: Recorded = NOTHING

    def __post_init__(self) -> None:
        self.warnings.extend(self.experiment.notes)
        self.runs = Path(self.experiment.paths.runs)
        self.cache = cache_folder(self.experiment.paths.cache)
        configs: list[TrialConfig] = [p.config for p in self.experiment.points] or [self.experiment]
        sections = {id(config.evaluation): config.evaluation for config in configs}.values()
        # Twice as many as are needed: other trials may hold some of them out.
        self._draws = 2 * max((k for each in sections if each.metrics for k in each.baselines.examples), default=0)
        self._texts: dict[int, str] = {}
        self._capabilities: dict[str, Capabilities] = {}
        self._loaded: dict[tuple[str, ...], LoadedDataset] = {}
        self._counters: dict[str, TokenCounter] = {}
        self._tokens: dict[tuple[str, str], int] = {}
        self._longest: dict[tuple[str, str], list[int]] = {}
        self._models: dict[str, FoundModel] = {}
        self._groups: dict[tuple[str | None, ...], Group] = {}
        self._measured: dict[tuple[str, ...], Measuring] = {}
        self._numbers: dict[str, int] = {}

    def trial(self, number: int, point: Point) -> Trial:
        """One point as a trial.

        Raises:
            InputError: what is wrong with its data, template or values.
        """
        config = point.config
        hyperparameters = config.hyperparameters
        capabilities = self.capabilities(config)
        loaded = self.load(config, capabilities, number)
        self._check(point, loaded, capabilities)
        identity = self._identity(config)
        measured = self._measuring(config, loaded, capabilities)
        ingredients = self._ingredients(config, capabilities, loaded, identity)
        key = digest(ingredients)
        first = self._numbers.setdefault(key, number)
        tokens = self._count(config, identity, loaded.training) * hyperparameters.epoch_count
        frozen = self._frozen(config)
        environment = dict(point.environment)
        if frozen.model.revision != config.model.revision:
            environment.pop("model.revision", None)  # a commit is not what the environment gave
        rate = self.history.seconds_per_token(capabilities.kind, environment.get("model.name", config.model.name))
        batches = math.ceil(len(loaded.training.examples) / hyperparameters.batch_size)
        state = self.history.states.get(key)
        trial = Trial(
            number=number,
            key=key,
            baselines=(),  # until all trials are there
            asked=measured.asked,
            ways=measured.ways,
            choices=measured.choices,
            overrides=point.overrides,
            config=frozen,
            capabilities=capabilities,
            training=loaded.training,
            held_out=_held_out(loaded),
            tokens=tokens,
            steps=batches * hyperparameters.epoch_count,
            ingredients=ingredients,
            seconds=None if rate is None else rate * tokens,
            same_as=None if first == number else first,
            done=state is JobState.SUCCEEDED,
            failed=state is JobState.FAILED,
            environment=environment,
            rerun=self.recorded.rerun,
        )
        self._group(trial, config, loaded)
        return trial

    def _ingredients(
        self, config: TrialConfig, capabilities: Capabilities, loaded: LoadedDataset, identity: str
    ) -> dict[str, Any]:
        """What a trial's key hashes."""
        hyperparameters = config.hyperparameters
        return {
            "format": KEY_FORMAT,
            "training": loaded.training.digest,
            "validation": loaded.validation.digest if loaded.validation else None,
            "model": identity,
            "chat_format": _chat_format(capabilities),
            "epoch_count": hyperparameters.epoch_count,
            "batch_size": hyperparameters.batch_size,
            "learning_rate": hyperparameters.effective_learning_rate,
            "adapter_rank": hyperparameters.adapter_rank,
            "adapter_alpha": hyperparameters.adapter_alpha,
            "seed": config.seed,
            "backend": {"kind": capabilities.kind, "address": capabilities.address},
            "precision": capabilities.precision,
            **(
                {"turns": base_model.TURNS_VERSION} if not capabilities.is_hosted and _has_conversations(loaded) else {}
            ),
            **({"quantization": capabilities.quantization} if capabilities.quantization else {}),
            **({"keep": hyperparameters.keep} if hyperparameters.keep != "last" else {}),
            **hyperparameters.for_tuning().later,
            **({"round": self.round} if self.round else {}),
        }

    def document(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """What the ledger freezes of a plan as a whole.

        `data` and `models` map what is compared to its name. Trials whose held-out sets have the same value in
        `held_out_rows` are measured on the same rows, in the same order; only these can be compared. `metrics` has the
        files of the user's own metrics.
        """
        from tunerun import __version__

        document = {
            "version": __version__,
            "code": code_version(
                [Path(d) for d in self.experiment.directories],
                self._data_files(trials),
                code=[Path(f.python.rpartition(":")[0]) for each in self._measured.values() for f in each.files],
            ),
            "varied": list(trials[0].overrides),
            "pins": dict(self.experiment.pins),
            "warnings": [redact(warning) for warning in dict.fromkeys(self.warnings)],
            "tokens_exact": self.tokens_exact,
            "round": self.round,
            "data": dict(_data(loaded) for loaded in self._loaded.values()),
            "models": {t.ingredients["model"]: t.config.model.name for t in trials},
            "key_formats": {str(KEY_FORMAT): ""},
            "held_out_rows": _held_out_rows(self._loaded.values()),
            "clusters": self._clusters(),
            "metrics": {
                file.metric: {"python": file.python, "sha256": file.sha256}
                for measured in self._measured.values()
                for file in measured.files
            },
        }
        for trial in {tuple(t.environment.items()): t for t in trials}.values():
            document = trial.as_stored(document)
        return document

    def _clusters(self) -> dict[str, list[int]]:
        """The cluster of each held-out row, by the digest of the set; no sets whose rows are all their own."""
        held_out = [s for loaded in self._loaded.values() for s in (loaded.validation, loaded.test) if s is not None]
        return {each.digest: list(each.clusters) for each in held_out if each.clusters}

    def _data_files(self, trials: Sequence[Trial]) -> list[Path]:
        datasets = {id(trial.config.dataset): trial.config.dataset for trial in trials}.values()
        paths = (path for d in datasets for path in (d.path, d.validation.path, d.test.path) if path is not None)
        return [Path(path) for path in dict.fromkeys(paths)]

    def _text(self, section: Section) -> str:
        if id(section) not in self._texts:
            self._texts[id(section)] = section.model_dump_json()
        return self._texts[id(section)]

    def _group(self, trial: Trial, config: TrialConfig, loaded: LoadedDataset) -> None:
        """Put a trial beside those that are compared with the same baselines."""
        place, identity = trial.capabilities, trial.ingredients["model"]
        validation = loaded.validation.digest if loaded.validation else None
        parts = (identity, validation, place.kind, place.address, place.precision, place.quantization)
        if parts not in self._groups:
            of_group = {
                "model": identity,
                "chat_format": _chat_format(place),
                "validation": validation,
                "backend": {"kind": place.kind, "address": place.address},
                **_number_format(place),
            }
            counter, limit = self._counter(config), self._token_limit(config)
            self._groups[parts] = Group(trial.base_model, of_group, loaded, counter, limit)
        ways = trial.ways if validation is not None else ()
        self._groups[parts].add(trial.number, loaded, config.evaluation.baselines.examples, ways)

    def baselines(self) -> tuple[PlannedBaseline, ...]:
        """What the trials that were made so far have to beat; a warning names those that are left out."""
        found = planned_baselines(tuple(self._groups.values()), self.history.is_answered)
        for each in found:
            if each.problem is not None:
                self._warn(f"evaluation.baselines: {each.name} is left out: {each.problem}")
        return found

    def _measuring(self, config: TrialConfig, loaded: LoadedDataset, capabilities: Capabilities) -> Measuring:
        validation = loaded.validation.digest if loaded.validation else ""
        parts = (self._text(config.evaluation), loaded.training.digest, validation, capabilities.kind)
        if parts not in self._measured:
            found = measuring(config.evaluation, loaded.training, loaded.validation, capabilities)
            for note in found.notes:
                self._warn(note)
            self._measured[parts] = found
        return self._measured[parts]

    def capabilities(self, config: TrialConfig) -> Capabilities:
        """What the backend of a config can do."""
        section = self._text(config.backend)
        if section not in self._capabilities:
            self._capabilities[section] = capabilities_of(config.backend)
            for text in self._capabilities[section].warnings:
                self._warn(text)
        return self._capabilities[section]

    def load(self, config: TrialConfig, capabilities: Capabilities, number: int = 0) -> LoadedDataset:
        """The examples of a config, read once for all that share them; each base model has its own limit.

        Args:
            number: of the point, by which a record has its examples.
        """
        shared = tuple(map(self._text, (config.dataset, config.template, config.backend, config.model)))
        if shared not in self._loaded:
            if self.recorded.examples is None:
                loaded = self._read(config, capabilities)
            else:
                loaded = self.recorded.examples[number]
                _check_lengths(loaded, self._token_limit(config))
            _check_size(loaded.training, capabilities)
            self.warnings.extend(loaded.warnings)
            self._loaded[shared] = loaded
        return self._loaded[shared]

    def _read(self, config: TrialConfig, capabilities: Capabilities) -> LoadedDataset:
        return load_examples(
            config.dataset,
            PromptTemplate(config.template),
            max_input_characters=capabilities.max_input_characters,
            max_output_characters=capabilities.max_output_characters,
            tokens=self._token_limit(config),
            control_tokens=None if capabilities.is_hosted else self._counter(config).control_tokens_in,
            most_places=self.most_places,
            progress=self.progress,
            draws=self._draws,
        )

    def _check(self, point: Point, loaded: LoadedDataset, capabilities: Capabilities) -> None:
        config = point.config
        examples, hyperparameters, model = len(loaded.training.examples), config.hyperparameters, config.model
        if hyperparameters.batch_size > examples:
            raise ConfigError(
                f"hyperparameters.batch_size: {hyperparameters.batch_size} is more than the {examples} examples "
                f"of {loaded.training.source}; set it to {examples} or less"
            )
        problems = [
            f"sweep.axes.{key}: the backend {capabilities.kind} has no word for it; take the axis away"
            for key in capabilities.not_taken
            if key in point.overrides
        ]
        if not capabilities.trains_conversations:
            problems += _conversations_in(loaded, capabilities)
        if hyperparameters.keep != "last":
            problems += _why_not_the_best(loaded, capabilities)
        problems += capabilities.problems
        problems += _not_taken(hyperparameters.for_tuning(), capabilities)
        problems += self._not_layers(config)
        if hyperparameters.learning_rate is not None and not capabilities.takes_learning_rate:
            problems.append(_by_multiplier(hyperparameters.learning_rate, capabilities))
        if problems:
            raise ConfigError(problems)
        if loaded.validation is not None and not capabilities.measures_epochs:
            self._warn(
                f"backend {capabilities.kind}: it does not measure the validation loss after each epoch; what is "
                "advised on epoch_count comes from the training loss alone"
            )
        if model.adapter_ranks is not None and hyperparameters.adapter_rank not in model.adapter_ranks:
            raise ConfigError(
                f"hyperparameters.adapter_rank: {hyperparameters.adapter_rank} is not offered for {model.name}; "
                f"choose one of {', '.join(map(str, model.adapter_ranks))}"
            )
        if model.retires_on is not None:
            self._check_retirement(model.name, date.fromisoformat(model.retires_on))
        is_large = capabilities.takes_learning_rate and hyperparameters.effective_learning_rate >= BASE_LEARNING_RATE
        if examples < SMALL_SET and is_large:
            self._warn(
                f"hyperparameters.learning_rate: {hyperparameters.effective_learning_rate:g} with {examples} examples; "
                f"the Gemini API's tuning guide advises a smaller value than {BASE_LEARNING_RATE:g} for a small set"
            )
        if config.evaluation.metrics and loaded.validation is None:
            self._warn(
                "dataset.validation: nothing is held out, so the trials cannot be compared; "
                "set dataset.validation.path or dataset.validation.fraction"
            )

    def _not_layers(self, config: TrialConfig) -> list[str]:
        """Why target modules are refused, as far as the base model's files on this machine say what its layers are."""
        targets = config.hyperparameters.for_tuning().target_modules
        found = None if targets is None else self._found(config)
        if targets is None or found is None:
            return []
        layers = found.facts.layers
        prepared = base_model.prepared_folder(found, self.cache) if found.kind == "gguf" and layers is None else None
        if prepared is not None:
            layers = model_facts.of_folder(prepared).layers
        problem = None if layers is None else target_modules.problem(targets, layers)
        return [] if problem is None else [problem]

    def _check_retirement(self, name: str, last_day: date) -> None:
        left = (last_day - date.today()).days
        if left < 0:
            raise ConfigError(f"model.retires_on: {name} was retired on {last_day}; choose another base model")
        if left <= RETIRES_SOON_DAYS:
            self._warn(
                f"model.retires_on: {name} is retired on {last_day}, in {left} days, and what is tuned from it with it"
            )

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _identity(self, config: TrialConfig) -> str:
        found = self._found(config)
        return f"{self.capabilities(config).kind}:{config.model.name}" if found is None else found.identity

    def _found(self, config: TrialConfig) -> FoundModel | None:
        """The base model on this machine or the hub, looked for once; None: it lives at a service."""
        if self.capabilities(config).is_hosted:
            return None
        section = self._text(config.model)
        if section not in self._models:
            try:
                found = find(config.model.reference(), self.cache, ask_hub=self.needs_base_model)
            except BaseModelError as error:
                if self.needs_base_model:
                    raise
                self._warn(f"{error}; tokens are estimated, and none is known to be a control token")
                return None
            except MissingPackageError as error:  # a plan needs no extra; `run` refuses before the first job
                self._warn(
                    f"model: {error}; until then it is not known which commit of {config.model.source} a run uses"
                )
                found = find(config.model.reference(), self.cache, ask_hub=False)
            if found.path is None and found.commit is not None:
                self._warn(f"model: {config.model.source} is not on this machine; a run fetches {found.commit}")
            if not found.facts.has_end_token:
                self._warn(
                    f"model: {config.model.name} names no end token, so its answers end at "
                    "evaluation.generation.max_output_tokens, and what follows an answer counts; choose a base model "
                    "with one, or set eos_token in its tokenizer_config.json"
                )
            if found.facts.has_experts:
                self._warn(
                    f"model: {config.model.name} is a mixture of experts; experts that are stored as one tensor get no "
                    "adapter, and the tuned model's tunerun.json lists them under without_adapter"
                )
            self._models[section] = found
        return self._models[section]

    def _frozen(self, config: TrialConfig) -> TrialConfig:
        """The config with the commit that a hub model is now: what the plan freezes means the same later."""
        found = self._found(config)
        if found is None or found.commit is None or found.commit == config.model.revision:
            return config
        model = config.model.model_copy(update={"revision": found.commit})
        return config.model_copy(update={"model": model})

    def _token_limit(self, config: TrialConfig) -> TokenLimit | None:
        found = self._found(config)
        most = config.model.context_length if found is None else found.context_tokens(config.model.reference())
        if most is None:
            return None
        counter = self._counter(config)
        return TokenLimit(most, counter.exact, counter.count_all)

    def _counter(self, config: TrialConfig) -> TokenCounter:
        """Exact where the tokenizer is at hand; a hosted base model need not be on this machine."""
        section = self._text(config.model)
        if section not in self._counters:
            try:
                self._counters[section] = token_counter(config.model.reference(), self.cache)
            except BaseModelError:
                if self.needs_base_model and not self.capabilities(config).is_hosted:
                    raise
                self._counters[section] = EstimatedCounter()
        return self._counters[section]

    def _count(self, config: TrialConfig, identity: str, examples: ExampleSet) -> int:
        counted = (identity, examples.digest)
        if counted not in self._tokens:
            counter = self._counter(config)
            if self.progress is not None:
                self.progress(f"counting the tokens of {len(examples.examples):,} examples")
            self.tokens_exact = self.tokens_exact and counter.exact
            lengths = counter.count_all(examples.examples)
            self._tokens[counted] = sum(lengths)
            self._longest[counted] = nlargest(LONGEST_KEPT, lengths)
        return self._tokens[counted]

    def memory(self, trials: Sequence[Trial]) -> tuple[PlannedMemory, ...]:
        """What the trials need of this machine's memory, by base model and settings; nothing of trials elsewhere."""
        return planned_memory([self._load_of(trial) for trial in trials if trial.capabilities.engine is not None])

    def _load_of(self, trial: Trial) -> Load:
        config, model = trial.config, trial.ingredients["model"]
        rows = config.hyperparameters.batch_size
        longest = self._longest[model, trial.training.digest][:rows]
        counter = self._counter(config)
        output = max((example.output for example in trial.training.examples), key=len)
        learned = counter.count(Example("", output)) - counter.count(Example("", ""))
        found = self._models.get(self._text(config.model)) or self._found(config)
        return Load(trial, None if found is None else found.facts.shape, math.ceil(fmean(longest)), max(1, learned))


def load_dataset(
    experiment: Experiment, most_places: int = MOST_PLACES, *, progress: Progress | None = None
) -> LoadedDataset:
    """The examples of an experiment itself, checked as a plan checks them, whatever its sweep varies.

    The base model need not be there; without it tokens are estimated, and a warning says so.

    Args:
        most_places: that one finding names.
        progress: is given what is done next.

    Raises:
        InputError: everything that is wrong with the data or the template, one line each.
    """
    planner = Planner(experiment, History(Path()), 0, most_places, progress, needs_base_model=False)
    loaded = planner.load(experiment, planner.capabilities(experiment))
    return replace(loaded, warnings=tuple(dict.fromkeys([*loaded.warnings, *planner.warnings])))


def _has_conversations(loaded: LoadedDataset) -> bool:
    """Whether something is trained or validated on more than an input and its output."""
    sets = (loaded.training, loaded.validation)
    return any(example.is_conversation for each in sets if each is not None for example in each.examples)


def _conversations_in(loaded: LoadedDataset, capabilities: Capabilities) -> list[str]:
    """Which sets hold conversations, for a backend that cannot train on them."""
    problems = []
    for name, each in (("training", loaded.training), ("validation", loaded.validation)):
        count = 0 if each is None else sum(example.is_conversation for example in each.examples)
        if each is not None and count:
            problems.append(
                f"{each.source}: {count:,} of {len(each.examples):,} {name} examples have a system message or several "
                f"turns; the backend {capabilities.kind} trains on one input and its output alone "
                f"({capabilities.source}); write a system message into template.text_input, keep to rows of one turn, "
                "or choose another backend"
            )
    return problems


def _why_not_the_best(loaded: LoadedDataset, capabilities: Capabilities) -> list[str]:
    """Why the best epoch cannot be kept."""
    problems = []
    if not capabilities.measures_epochs:
        problems.append(
            f"hyperparameters.keep: best needs the validation loss after each epoch, which the backend "
            f"{capabilities.kind} does not measure; set it to last"
        )
    elif not capabilities.keeps_best:
        problems.append(
            f"hyperparameters.keep: best is not possible, because the backend {capabilities.kind} may have dropped the "
            "model of that epoch; set it to last"
        )
    if loaded.validation is None:
        problems.append(
            "hyperparameters.keep: best needs held-out examples; set dataset.validation.path or "
            "dataset.validation.fraction, or keep the last epoch"
        )
    return problems


def _not_taken(hyperparameters: TuningHyperparameters, capabilities: Capabilities) -> list[str]:
    """Which hyperparameters have a value that the backend would ignore."""
    default = TuningHyperparameters()
    return [
        f"hyperparameters.{name}: the backend {capabilities.kind} does not take it; leave it at "
        f"{json.dumps(getattr(default, name))}, or choose another backend"
        for name in hyperparameters.later
        if name not in capabilities.hyperparameters
    ]


def _by_multiplier(rate: float, capabilities: Capabilities) -> str:
    """Why an absolute learning rate is refused, and the multiplier that is the same one here."""
    multiplier = rate / BASE_LEARNING_RATE
    return (
        f"hyperparameters.learning_rate: {rate:g} is absolute, and the backend {capabilities.kind} takes only a "
        f"multiplier of a rate of the service's own; ours would be {multiplier:g}, of the {BASE_LEARNING_RATE:g} that "
        f"`tunerun serve` multiplies: set hyperparameters.learning_rate=null "
        f"hyperparameters.learning_rate_multiplier={multiplier:g}, or what suits another service"
    )


def _chat_format(place: Capabilities) -> str | None:
    """The chat format's part of a key; a service's own is not known."""
    return None if place.is_hosted else chat_template.IN_KEY


def _number_format(place: Capabilities) -> dict[str, str]:
    """A base model's answers depend on it; float32 is what every engine had before there was a choice."""
    parts = {"precision": place.precision, "quantization": place.quantization}
    return {name: value for name, value in parts.items() if value not in ("", "float32")}


def _held_out(loaded: LoadedDataset) -> dict[str, ExampleSet]:
    sets = {"validation": loaded.validation, "test": loaded.test}
    return {name: examples for name, examples in sets.items() if examples is not None}


def _check_lengths(loaded: LoadedDataset, limit: TokenLimit | None) -> None:
    """Refuse recorded examples that are too long, for another base model takes fewer tokens than the first one."""
    if limit is None or not limit.exact:
        return
    sets = [s for s in (loaded.training, loaded.validation, loaded.test) if s is not None]
    too_long = {s.source: sum(tokens > limit.most for tokens in limit.count_all(s.examples)) for s in sets}
    if problems := [
        f"{source}: {count:,} examples have more tokens than the {limit.most:,} that the base model takes; "
        "choose another base model, or give the rows again with --data"
        for source, count in too_long.items()
        if count
    ]:
        raise DatasetError(problems)


def _check_size(training: ExampleSet, capabilities: Capabilities) -> None:
    if len(training.examples) < capabilities.min_examples:
        raise LimitError(
            f"{training.source}: {len(training.examples)} training examples; the backend {capabilities.kind} takes at "
            f"least {capabilities.min_examples} ({capabilities.source}); add more"
        )
    limit = capabilities.max_training_bytes
    if limit is None:
        return
    size = sum(len("".join([*texts_of(e.input), e.output]).encode()) for e in training.examples)
    if size > limit:
        raise LimitError(
            f"{training.source}: {size:,} bytes of training examples; the backend {capabilities.kind} takes {limit:,} "
            f"({capabilities.source}); set dataset.limit"
        )


def _held_out_rows(loaded: Iterable[LoadedDataset]) -> dict[str, str]:
    """The digest of the rows behind each held-out set, by the set's own: templates change the one and not the other."""
    sets = (held_out for each in loaded for held_out in (each.validation, each.test) if held_out is not None)
    return {held_out.digest: held_out.rows for held_out in sets}


def _data(loaded: LoadedDataset) -> tuple[str, str]:
    """A digest of all examples of a dataset, however they are split, and what to call them."""
    sets = [s for s in (loaded.training, loaded.validation, loaded.test) if s is not None]
    examples = {_content(example) for each in sets for example in each.examples}
    content = digest_of_list(sorted(examples))
    files = " and ".join(dict.fromkeys(Path(each.source).name for each in sets))
    return content, f"{len(examples):,} different examples of {files}"


def _content(example: Example) -> tuple[str, ...]:
    """What tells an example from others, as texts that can be sorted: of one turn its input and its output."""
    if not example.is_conversation:
        return example.text_input, example.output
    return example.text_input, example.output, json.dumps(example.document, sort_keys=True, ensure_ascii=False)
