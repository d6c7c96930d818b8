"""Measures of answers to held-out examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunerun.job import Example
from tunerun.ledger import Answers, TrialRecord
from tunerun.metrics import Asks, resolve


@dataclass(frozen=True)
class Prediction:
    """What a model answered to a held-out example, beside what it should have."""

    text_input: str
    expected: str
    predicted: str
    exact_match: bool


@dataclass(frozen=True)
class Measured:
    """Measures of a subject's answers, and the answers beside the expected ones."""

    metrics: Mapping[str, float]
    predictions: tuple[Prediction, ...]
    created_at: float


def measure(trial: TrialRecord, examples: Sequence[Example], answers: Answers) -> Measured:
    """Measure answers by the metrics of a trial's config.

    Args:
        examples: held-out examples; not empty.
        answers: one for each of them, in order.
    """
    expected = [example.output for example in examples]
    rows = tuple(
        Prediction(example.text_input, example.output, predicted, example.output.strip() == predicted.strip())
        for example, predicted in zip(examples, answers.texts, strict=True)
    )
    values = {
        f"eval/{metric.name}": float(metric.value(metric.rows(expected, answers.texts).mean(axis=0)))
        for metric in resolve(trial.settings.evaluation)
        if metric.asks is Asks.ANSWERS
    }
    return Measured(values, rows, answers.created_at)
