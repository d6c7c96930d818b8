"""What the trials of a plan share: data, base models, token counts and backend capabilities, each looked up once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import nlargest
from statistics import fmean
from typing import TypeVar, cast

from tunerun.backends import capabilities_of
from tunerun.backends.base import Capabilities
from tunerun.dataset import LoadedDataset, Progress, TokenLimit, load_examples
from tunerun.dataset.advice import MOST_PLACES
from tunerun.engine import model_facts, prepared_model
from tunerun.engine.base_model import FoundModel, cache_folder, find
from tunerun.engine.token_counter import EstimatedCounter, TokenCounter, token_counter
from tunerun.errors import BaseModelError, MissingPackageError
from tunerun.examples import Example, ExampleSet
from tunerun.planning import checks
from tunerun.planning.measuring import MeasurementPlan, measurement_plan
from tunerun.planning.recorded import NOTHING, Recorded
from tunerun.schema import Experiment, TrialConfig
from tunerun.section import Section
from tunerun.template import PromptTemplate

LONGEST_KEPT = 1024
"""Number of lengths kept, the longest ones; a batch of more rows is taken to have their mean length throughout."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Lengths:
    """Token counts of a set of examples.

    Attributes:
        total: tokens of one epoch.
        longest: tokens of the longest examples, in descending order.
        learned: tokens of the longest output.
    """

    total: int
    longest: tuple[int, ...]
    learned: int

    def of_longest_batch(self, rows: int) -> int:
        """Return the mean number of tokens of a row in the longest batch of `rows` rows."""
        return math.ceil(fmean(self.longest[:rows]))


class Sources:
    """Looks up what trials share, each thing once.

    Args:
        experiment: the experiment that is planned.
        most_places: maximum number of places that one finding in the data lists.
        progress: called with a short description of the next step.
        needs_base_model: whether a missing base model is an error; if not, tokens are estimated.
        recorded: what is taken from the record of another sweep.

    Attributes:
        warnings: for the user, one line each.
        tokens_exact: whether every count was made by the base model's own tokenizer.
        loaded: every dataset that was loaded.
        measurements: how trials are measured, each measurement once.
        recorded: as passed.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        most_places: int = MOST_PLACES,
        progress: Progress | None = None,
        needs_base_model: bool = True,
        recorded: Recorded = NOTHING,
    ) -> None:
        self.warnings: list[str] = [*experiment.notes]
        self.tokens_exact = True
        self.loaded: list[LoadedDataset] = []
        self.measurements: list[MeasurementPlan] = []
        self.recorded = recorded
        self._cache = cache_folder(experiment.paths.cache)
        self._most_places = most_places
        self._progress = progress
        self._needs_base_model = needs_base_model
        configs: list[TrialConfig] = [point.config for point in experiment.points] or [experiment]
        sections = {id(config.evaluation): config.evaluation for config in configs}.values()
        # Draw twice the number of few-shot examples needed: some may be in another trial's test set and be dropped.
        self._draws = 2 * max((k for each in sections if each.metrics for k in each.baselines.examples), default=0)
        # Serialised sections by `id()`: points that share a section share one object. No id is used again, because the
        # experiment keeps the sections alive.
        self._texts: dict[int, str] = {}
        self._kept: dict[tuple[str, ...], object] = {}

    def warn(self, text: str) -> None:
        """Add a warning, unless it was added before."""
        if text not in self.warnings:
            self.warnings.append(text)

    def _once(self, parts: tuple[str | Section, ...], make: Callable[[], _T]) -> _T:
        """Return the cached result for these parts, or make it; sections are equal if their contents are."""
        texts: list[str] = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
            else:
                if id(part) not in self._texts:
                    self._texts[id(part)] = part.model_dump_json()
                texts.append(self._texts[id(part)])
        key = tuple(texts)
        if key not in self._kept:
            self._kept[key] = make()
        return cast("_T", self._kept[key])

    # Backend and data

    def capabilities(self, config: TrialConfig) -> Capabilities:
        """Return the capabilities of a config's backend."""

        def look_up() -> Capabilities:
            capabilities = capabilities_of(config.backend)
            for text in capabilities.warnings:
                self.warn(text)
            return capabilities

        return self._once(("capabilities", config.backend), look_up)

    def examples(self, config: TrialConfig, number: int = 0) -> LoadedDataset:
        """Return the checked examples of a config; they depend on the base model, because each has its own limit.

        Args:
            config: of a point.
            number: of the point, by which recorded examples are looked up.

        Raises:
            InputError: the examples or the template have problems.
        """

        def load() -> LoadedDataset:
            capabilities = self.capabilities(config)
            if self.recorded.examples is None:
                loaded = load_examples(
                    config.dataset,
                    PromptTemplate(config.template),
                    max_input_characters=capabilities.max_input_characters,
                    max_output_characters=capabilities.max_output_characters,
                    tokens=self.token_limit(config),
                    control_tokens=None if capabilities.is_hosted else self.counter(config).control_tokens_in,
                    most_places=self._most_places,
                    progress=self._progress,
                    draws=self._draws,
                )
            else:
                loaded = self.recorded.examples[number]
                checks.check_lengths(loaded, self.token_limit(config))
            checks.check_size(loaded.training, capabilities)
            self.warnings.extend(loaded.warnings)
            self.loaded.append(loaded)
            return loaded

        return self._once(("examples", config.dataset, config.template, config.backend, config.model), load)

    def measurement(self, config: TrialConfig, loaded: LoadedDataset) -> MeasurementPlan:
        """Return how the tuned models of a config are measured.

        Args:
            config: of a point.
            loaded: its examples.

        Raises:
            ConfigError: the choices cannot be used, or a metric is not possible; see `measurement_plan`.
            MissingPackageError: a metric needs a package that is not installed.
        """
        capabilities = self.capabilities(config)

        def look_up() -> MeasurementPlan:
            measurement = measurement_plan(config.evaluation, loaded.training, loaded.validation, capabilities)
            for note in measurement.notes:
                self.warn(note)
            self.measurements.append(measurement)
            return measurement

        # By the examples' content: configs of many templates or limits may give the same examples.
        validation = loaded.validation.digest if loaded.validation else ""
        return self._once(
            ("measuring", config.evaluation, loaded.training.digest, validation, capabilities.kind), look_up
        )

    # Base model

    def model(self, config: TrialConfig) -> FoundModel | None:
        """Return the base model on this machine or the hub; None: a service hosts it, or it is optional and not found.

        Raises:
            BaseModelError: the base model cannot be found or cannot be tuned.
        """
        if self.capabilities(config).is_hosted:
            return None

        def look_up() -> FoundModel | None:
            try:
                base_model = find(config.model.reference(), self._cache, ask_hub=self._needs_base_model)
            except BaseModelError as error:
                if self._needs_base_model:
                    raise
                self.warn(f"{error}; tokens are estimated, and none is known to be a control token")
                return None
            except MissingPackageError as error:  # a plan needs no extra; `run` refuses before the first job
                source = config.model.source
                self.warn(f"model: {error}; until then it is not known which commit of {source} a run uses")
                base_model = find(config.model.reference(), self._cache, ask_hub=False)
            if base_model.path is None and base_model.commit is not None:
                self.warn(f"model: {config.model.source} is not on this machine; a run fetches {base_model.commit}")
            if not base_model.facts.has_end_token:
                self.warn(
                    f"model: {config.model.name} names no end token, so its answers end at "
                    "evaluation.generation.max_output_tokens, and what follows an answer counts; choose a base model "
                    "with one, or set eos_token in its tokenizer_config.json"
                )
            if base_model.facts.has_experts:
                self.warn(
                    f"model: {config.model.name} is a mixture of experts; experts that are stored as one tensor get no "
                    "adapter, and the tuned model's tunerun.json lists them under without_adapter"
                )
            return base_model

        return self._once(("model", config.model), look_up)

    def identity(self, config: TrialConfig) -> str:
        """Return the identity of a base model's weights, as in trial keys; for a hosted model its backend and name."""
        base_model = self.model(config)
        return f"{self.capabilities(config).kind}:{config.model.name}" if base_model is None else base_model.identity

    def layers(self, config: TrialConfig) -> tuple[str, ...] | None:
        """Return the names of the layers that can have an adapter; None: the files on this machine do not list them."""
        base_model = self.model(config)
        if base_model is None:
            return None
        if base_model.facts.layers is not None:
            return base_model.facts.layers
        # A GGUF file names its layers in llama.cpp's words; the folder that it was converted to has the right names.
        converted = prepared_model.model_folder(base_model, self._cache)
        return None if converted is None else model_facts.of_folder(converted).layers

    def frozen(self, config: TrialConfig) -> TrialConfig:
        """Return the config with a hub model's revision resolved to a commit, because a branch or tag can move."""
        base_model = self.model(config)
        if base_model is None or base_model.commit is None or base_model.commit == config.model.revision:
            return config
        model = config.model.model_copy(update={"revision": base_model.commit})
        return config.model_copy(update={"model": model})

    # Tokens

    def counter(self, config: TrialConfig) -> TokenCounter:
        """Return a token counter: exact if the tokenizer is available, else an estimate, as for most hosted models.

        Args:
            config: of a point.

        Raises:
            BaseModelError: the tokenizer of a base model that is needed on this machine cannot be read.
        """

        def make() -> TokenCounter:
            try:
                return token_counter(config.model.reference(), self._cache)
            except BaseModelError:
                # The tokenizer of a hosted model is rarely public.
                if self._needs_base_model and not self.capabilities(config).is_hosted:
                    raise
                return EstimatedCounter()

        return self._once(("counter", config.model), make)

    def token_limit(self, config: TrialConfig) -> TokenLimit | None:
        """Return the maximum number of tokens of an example; None: not known."""
        base_model = self.model(config)
        most = (
            config.model.context_length if base_model is None else base_model.context_tokens(config.model.reference())
        )
        if most is None:
            return None
        counter = self.counter(config)
        return TokenLimit(most, counter.exact, counter.count_all)

    def lengths(self, config: TrialConfig, examples: ExampleSet) -> Lengths:
        """Return the token counts of examples for the base model of a config.

        Args:
            config: of a point.
            examples: not empty.
        """

        def count() -> Lengths:
            counter = self.counter(config)
            if self._progress is not None:
                self._progress(f"counting the tokens of {len(examples.examples):,} examples")
            self.tokens_exact = self.tokens_exact and counter.exact
            lengths = counter.count_all(examples.examples)
            # One count more, not one for each example: the longest text is close to the one with the most tokens.
            output = max((example.output for example in examples.examples), key=len)
            learned = counter.count(Example("", output)) - counter.count(Example("", ""))  # without the chat format
            return Lengths(sum(lengths), tuple(nlargest(LONGEST_KEPT, lengths)), max(1, learned))

        # By the base model's content: configs that name one model differently share the counts.
        return self._once(("lengths", self.identity(config), examples.digest), count)


def load_dataset(
    experiment: Experiment, most_places: int = MOST_PLACES, *, progress: Progress | None = None
) -> LoadedDataset:
    """Load the examples of an experiment's own config, ignoring its sweep, and check them as a plan does.

    The base model need not be available; without it tokens are estimated, and a warning says so.

    Args:
        experiment: from `tunerun.load`.
        most_places: maximum number of places that one finding lists.
        progress: called with a short description of the next step.

    Raises:
        InputError: the data or the template have problems; all of them, one line each.
    """
    sources = Sources(experiment, most_places=most_places, progress=progress, needs_base_model=False)
    loaded = sources.examples(experiment)
    return replace(loaded, warnings=tuple(dict.fromkeys([*loaded.warnings, *sources.warnings])))
