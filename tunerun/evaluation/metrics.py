"""Measures of answers to held-out examples, computed from what the ledger has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunerun.job import Example
from tunerun.ledger import Answers, TrialRecord


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


def exact_match(expected: str, predicted: str) -> bool:
    """Whether an answer is the expected one, apart from white space at the ends."""
    return expected.strip() == predicted.strip()


def measure(trial: TrialRecord, examples: Sequence[Example], answers: Answers) -> Measured:
    """Measure answers by the metrics of a trial's config; `eval/exact_match` is the share that matches, from 0 to 1.

    Args:
        examples: held-out examples; not empty.
        answers: one for each of them, in order.
    """
    rows = tuple(
        Prediction(example.text_input, example.output, predicted, exact_match(example.output, predicted))
        for example, predicted in zip(examples, answers.texts, strict=True)
    )
    values = {"exact_match": sum(row.exact_match for row in rows) / len(rows)}
    wanted = trial.settings.evaluation.get("metrics", ())
    return Measured({f"eval/{name}": values[name] for name in wanted if name in values}, rows, answers.created_at)
