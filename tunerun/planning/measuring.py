"""How the models of a trial are measured: how answers are obtained, and whether metrics and backend support it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunerun.backends.base import Capabilities
from tunerun.errors import ConfigError
from tunerun.examples import ExampleSet
from tunerun.generation import GenerateOptions
from tunerun.ledger import LOSSES, asked_by
from tunerun.metrics import Asks, CodeFile, Metric, MetricModel, code_files, resolve
from tunerun.metrics.base import RANGES
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.metrics.registry import require_packages
from tunerun.schema import Evaluation

MOST_CHOICES = 200
"""Maximum number of distinct outputs that `evaluation.choices: auto` treats as labels: each label is scored for each
held-out row, so the cost is their product.

The largest sets of intents in use have 77 (BANKING77, Casanueva et al. 2020) and 150 (CLINC150, Larson et al. 2019).
"""


@dataclass(frozen=True)
class MeasurementPlan:
    """How answers to held-out examples are obtained and scored.

    Attributes:
        answer_method: digest of how texts are obtained (generation options and choices).
        methods: how answers are obtained, as the ledger keys them: `answer_method`, `LOSSES`, both, or neither if there
            are no metrics.
        choices: the answers a model chooses from; empty: it generates text.
        files: code files of the user's own metrics.
        notes: for the reader of the plan, one line each.
    """

    answer_method: str
    methods: tuple[str, ...]
    choices: tuple[str, ...]
    files: tuple[CodeFile, ...]
    notes: tuple[str, ...]


def measurement_plan(
    evaluation: Evaluation, training: ExampleSet, validation: ExampleSet | None, capabilities: Capabilities
) -> MeasurementPlan:
    """Determine how trials with these examples are measured; the user's own code is not executed.

    Args:
        evaluation: the config section.
        training: the training examples, from which `choices: auto` takes the labels.
        validation: the held-out examples; None: nothing is held out.
        capabilities: of the backend that answers.

    Raises:
        ConfigError: the choices cannot be used, a metric's file is invalid, or the backend does not support a metric.
        MissingPackageError: a metric needs a package that is not installed.
    """
    metrics = resolve(evaluation)
    require_packages(metrics)  # now, and not when the first trial has been trained
    choices = choices_of(evaluation.choices, training) if evaluation.metrics else ()
    if not capabilities.measures_losses:
        # Choices need likelihoods too: a model's answer is the choice with the smallest loss.
        cannot = f"the backend {capabilities.kind} cannot score the likelihood of an answer"
        problems = [
            f"evaluation.metrics: {metric.name} needs the loss of expected answers, and {cannot}; remove it"
            for metric in metrics
            if metric.asks is Asks.LOSSES
        ]
        if choices:
            problems.append(f"evaluation.choices: {cannot}; set evaluation.choices=null")
        if problems:
            raise ConfigError(problems)
    files = code_files(metrics)
    generation = evaluation.generation
    answer_method = asked_by(GenerateOptions(generation.max_output_tokens, generation.temperature), choices)
    needs = {metric.asks for metric in metrics}
    methods = [*([answer_method] if Asks.ANSWERS in needs else []), *([LOSSES] if Asks.LOSSES in needs else [])]
    expected = [example.output for example in validation.examples] if validation else []
    notes = [
        *(f"evaluation.metrics: {f.path.name} (sha256 {f.sha256[:12]}) is code that runs here" for f in files),
        *_notes(evaluation, metrics, choices, expected),
    ]
    return MeasurementPlan(answer_method, tuple(methods), choices, tuple(files), tuple(notes))


def _notes(
    evaluation: Evaluation, metrics: Sequence[Metric], choices: Sequence[str], expected: Sequence[str]
) -> Iterator[str]:
    """Yield notes on outputs that cannot be right or be scored, and on early stopping that will not happen."""
    if choices:
        source = "different outputs of the training examples" if evaluation.choices == "auto" else "choices"
        yield (
            f"evaluation.choices: a model's answer is the likeliest of {len(choices)} {source}; nothing is generated, "
            "so every answer is one of them"
        )
        possible = {choice.strip() for choice in choices}
        if outside := sum(output.strip() not in possible for output in expected):
            yield (
                f"evaluation.choices: {outside:,} of {len(expected):,} held-out outputs are not among the choices; no "
                "model can get them right"
            )
    for metric in metrics:
        if not isinstance(metric, MetricModel):
            continue  # a metric of the user's own code, which a plan does not execute
        reasons = {row: why for row, text in enumerate(expected, start=1) if (why := metric.unsuited(text))}
        if reasons:
            row, why = next(iter(reasons.items()))
            yield (
                f"evaluation.metrics: {metric.name} cannot score {len(reasons):,} of {len(expected):,} held-out "
                f"outputs; they count as wrong; held-out example {row} {why}"
            )
    if evaluation.stop_early and (reason := why_never_early(metrics)):
        yield f"evaluation.stop_early: every trial answers all held-out rows, because {reason}"


def choices_of(choices: Sequence[str] | None, training: ExampleSet) -> tuple[str, ...]:
    """Return the answers a model chooses from; empty: it generates text.

    Args:
        choices: the value of `evaluation.choices`: `auto`, a list, or None.
        training: the training examples, from which `auto` takes the labels.

    Raises:
        ConfigError: the outputs of the training examples cannot serve as labels.
    """
    if choices is None:
        return ()
    if choices != "auto":
        return tuple(choices)
    # As answers are compared: outputs that differ in white space around them are one label.
    outputs = sorted({example.output.strip(): example.output for example in training.examples}.values())
    if len(outputs) < 2:
        raise ConfigError(
            "evaluation.choices: auto finds the same output in all training examples; set null, or list the choices"
        )
    if len(outputs) > MOST_CHOICES:
        raise ConfigError(
            f"evaluation.choices: auto finds {len(outputs):,} different outputs in the training examples, and accepts "
            f"{MOST_CHOICES} at most: each is scored for each held-out example; set null, or list the choices"
        )
    return tuple(outputs)


def stops_early(evaluation: Evaluation) -> Metric | None:
    """Return the metric by which trials may stop early; None: they never do."""
    if not evaluation.stop_early:
        return None
    metrics = resolve(evaluation)
    return None if why_never_early(metrics) else metrics[0]


def why_never_early(metrics: Sequence[Metric]) -> str:
    """Return why no trial can be decided to be worse before all rows are answered; empty: it can.

    Args:
        metrics: with the metric that decides as the first one.
    """
    if not metrics:
        return "no metric decides"
    metric = metrics[0]  # the first one decides between points
    if metric.asks is Asks.LOSSES:
        return f"{metric.name} decides, which generates no answers"
    if isinstance(metric, JudgedMetric):
        return f"{metric.name} decides, and a judge is called after all rows are answered"
    if metric.is_corpus:
        return f"{metric.name} decides, which is not a mean over rows"
    if metric.unit not in RANGES:  # the test needs differences as shares of the largest possible one
        return f"{metric.name} decides, whose scores are unbounded: give it the unit share or hundred"
    return ""
