"""Checks before training, of a point and of all trials: what is rejected, and what a user should know.

Pure: no file is read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date

from tunerun.backends.base import Capabilities
from tunerun.dataset import LoadedDataset, TokenLimit
from tunerun.engine import target_modules
from tunerun.errors import DatasetError, LimitError
from tunerun.examples import ExampleSet, texts_of
from tunerun.job import BASE_LEARNING_RATE, TuningHyperparameters
from tunerun.planning.trial import Trial
from tunerun.schema import Point, TrialConfig

SMALL_SET = 100
"""Examples below which 0.001 is a large learning rate (the Gemini API's tuning guide, as last served 2025-04-28)."""

RETIRES_SOON_DAYS = 60

NEAR = 3.0
"""Factor within which two learning rates are near each other. Our choice: rates are usually tried in steps of about 3
(1e-4, 3e-4, 1e-3), so a sweep around the advised rate includes one within this factor."""


def problems_of(
    point: Point, loaded: LoadedDataset, capabilities: Capabilities, layers: Sequence[str] | None
) -> Iterator[str]:
    """Yield why a point is rejected, one line each.

    Args:
        point: of the sweep.
        loaded: its examples.
        capabilities: of its backend.
        layers: names of the base model's layers that can have an adapter; None: not known on this machine.
    """
    config = point.config
    examples, hyperparameters, model = len(loaded.training.examples), config.hyperparameters, config.model
    if hyperparameters.batch_size > examples:
        yield (
            f"hyperparameters.batch_size: {hyperparameters.batch_size} is more than the {examples} examples "
            f"of {loaded.training.source}; set it to {examples} or less"
        )
    # A backend may ignore a key that has one value for all trials, but trials that differ in it would be equal.
    for key in capabilities.not_taken:
        if key in point.overrides:
            yield f"sweep.axes.{key}: the backend {capabilities.kind} does not take it; remove the axis"
    if not capabilities.trains_conversations:
        yield from _conversations_in(loaded, capabilities)
    if hyperparameters.keep != "last":
        yield from _why_not_the_best(loaded, capabilities)
    yield from capabilities.problems
    # `later` has the values that differ from the default, which every backend trains with.
    tuning, default = hyperparameters.for_tuning(), TuningHyperparameters()
    for name in tuning.later:
        if name not in capabilities.hyperparameters:
            yield (
                f"hyperparameters.{name}: the backend {capabilities.kind} does not take it; leave it at "
                f"{json.dumps(getattr(default, name))}, or choose another backend"
            )
    targets = tuning.target_modules
    if targets is not None and layers is not None and (problem := target_modules.problem(targets, layers)) is not None:
        yield problem
    if (rate := hyperparameters.learning_rate) is not None and not capabilities.takes_learning_rate:
        multiplier = rate / BASE_LEARNING_RATE
        yield (
            f"hyperparameters.learning_rate: {rate:g} is absolute, and the backend {capabilities.kind} takes only a "
            f"multiplier of a rate of the service's own; ours would be {multiplier:g}, of the {BASE_LEARNING_RATE:g} "
            f"that `tunerun serve` multiplies: set hyperparameters.learning_rate=null "
            f"hyperparameters.learning_rate_multiplier={multiplier:g}, or what suits another service"
        )
    if model.adapter_ranks is not None and hyperparameters.adapter_rank not in model.adapter_ranks:
        yield (
            f"hyperparameters.adapter_rank: {hyperparameters.adapter_rank} is not offered for {model.name}; "
            f"choose one of {', '.join(map(str, model.adapter_ranks))}"
        )
    if model.retires_on is not None and _days_left(model.retires_on) < 0:
        yield f"model.retires_on: {model.name} was retired on {model.retires_on}; choose another base model"


def notes_of(config: TrialConfig, loaded: LoadedDataset, capabilities: Capabilities) -> Iterator[str]:
    """Yield what a user should know about a trial before it runs, one line each.

    Args:
        config: of a point.
        loaded: its examples.
        capabilities: of its backend.
    """
    examples, hyperparameters, model = len(loaded.training.examples), config.hyperparameters, config.model
    if loaded.validation is not None and not capabilities.measures_epochs:
        yield (
            f"backend {capabilities.kind}: it does not measure the validation loss after each epoch; advice on "
            "epoch_count is based on the training loss alone"
        )
    if model.retires_on is not None and (left := _days_left(model.retires_on)) <= RETIRES_SOON_DAYS:
        yield (
            f"model.retires_on: {model.name} retires on {model.retires_on} ({left} days from now), together with the "
            "models tuned from it"
        )
    is_large = capabilities.takes_learning_rate and hyperparameters.effective_learning_rate >= BASE_LEARNING_RATE
    if examples < SMALL_SET and is_large:
        yield (
            f"hyperparameters.learning_rate: {hyperparameters.effective_learning_rate:g} with {examples} examples; the "
            f"Gemini API's tuning guide advises a smaller value than {BASE_LEARNING_RATE:g} for a small set"
        )
    if config.evaluation.metrics and loaded.validation is None:
        yield (
            "dataset.validation: nothing is held out, so the trials cannot be compared; set dataset.validation.path or "
            "dataset.validation.fraction"
        )


def notes_on_trials(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield what a user should know about all trials of a plan together, one line each.

    Args:
        trials: of the plan; not empty.
    """
    if len({trial.validation.rows for trial in trials if trial.validation is not None}) > 1:
        yield (
            "dataset.validation: the trials are measured on different held-out rows, so points are not compared with "
            "each other; keep the rows in a separate file, dataset.validation.path"
        )
    budget = trials[0].config.budget
    if budget.max_hours is not None and any(trial.seconds is None and not trial.done for trial in trials):
        yield (
            "budget.max_hours: the duration of training is not known before a first trial has run; a run that reaches "
            "the limit submits no more jobs"
        )
    rates: defaultdict[str, list[float]] = defaultdict(list)
    advised = {}
    for trial in trials:
        model = trial.config.model
        if model.advised_learning_rate is not None and trial.capabilities.takes_learning_rate:
            rates[model.name].append(trial.config.hyperparameters.effective_learning_rate)
            advised[model.name] = model.advised_learning_rate
    for name, advice in advised.items():
        # One near trial is enough: a sweep that includes the advised rate explores around it on purpose.
        if not any(1 / NEAR <= rate / advice.value <= NEAR for rate in rates[name]):
            swept = ", ".join(f"{rate:g}" for rate in sorted(set(rates[name])))
            yield (
                f"hyperparameters.learning_rate: {swept}, and {advice.value:g} is advised for {name} "
                f"({advice.source}); set hyperparameters.learning_rate={advice.value:g}, or sweep around it"
            )


def _days_left(retires_on: str) -> int:
    return (date.fromisoformat(retires_on) - date.today()).days


def _conversations_in(loaded: LoadedDataset, capabilities: Capabilities) -> list[str]:
    """Problems with sets that contain conversations, for a backend that cannot train on them."""
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
    """Why `hyperparameters.keep: best` is not possible."""
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


def check_lengths(loaded: LoadedDataset, limit: TokenLimit | None) -> None:
    """Reject recorded examples that are too long: a new base model may have a shorter context than the recorded one.

    Args:
        loaded: examples from a record.
        limit: of the base model; None or an estimate: nothing is checked.

    Raises:
        DatasetError: some examples are too long.
    """
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


def check_size(training: ExampleSet, capabilities: Capabilities) -> None:
    """Reject training examples that are too few or too large for their backend.

    Raises:
        LimitError: there are fewer than the backend's minimum, or they exceed its maximum size in bytes.
    """
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
