"""Measures of answers to held-out examples."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tunerun.job import Example
from tunerun.ledger import Evaluation, Prediction


def exact_match(expected: str, predicted: str) -> bool:
    """Whether an answer is the expected one, apart from white space at the ends."""
    return expected.strip() == predicted.strip()


def evaluate(examples: Sequence[Example], predictions: Sequence[str], metrics: Sequence[str]) -> Evaluation:
    """Measure answers against held-out examples; `eval/exact_match` is the share that matches, from 0 to 1.

    Args:
        examples: held-out examples; not empty.
        predictions: one answer for each of them, in order.
    """
    rows = tuple(
        Prediction(example.text_input, example.output, predicted, exact_match(example.output, predicted))
        for example, predicted in zip(examples, predictions, strict=True)
    )
    values = {"exact_match": sum(row.exact_match for row in rows) / len(rows)}
    return Evaluation({f"eval/{name}": values[name] for name in metrics}, rows, time.time())
