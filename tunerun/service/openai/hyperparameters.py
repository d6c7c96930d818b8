"""Resolves OpenAI's three hyperparameters to numbers: the values for `auto`, and the base of the multiplier.

OpenAI does not publish its choices for `auto`. This service chooses by the number of training examples:

| examples | n_epochs | batch_size | learning_rate_multiplier |
| --- | --- | --- | --- |
| 1 to 4 | 25 | 4 | 1 |
| 5 to 33 | 100 / examples, rounded down | 4 | 1 |
| 34 to 500 | 3 | 4 | 1 |
| 501 to 8,333 | 3 | 16 | 0.2 |
| 8,334 to 12,500 | 2 | 16 | 0.2 |
| 12,501 and more | 1 | 16 | 0.2 |

The epochs follow the price estimate in OpenAI's cookbook (Chat_finetuning_data_prep, 2023): three, adjusted so that
examples times epochs are from 100 to 25,000, at most 25. Batch size and learning rate are the Gemini wire's, so that a
data set gives the same model on both wires if only the epochs are specified. The learning rate is the multiplier times
0.001, whatever the number of examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tunerun.job import BASE_LEARNING_RATE
from tunerun.service.core.new_model import MAX_STEPS
from tunerun.service.core.problems import invalid

AUTO: Literal["auto"] = "auto"

FEW_EPOCHS, MOST_EPOCHS, USUAL_EPOCHS = 1, 25, 3
LEAST_TOTAL, MOST_TOTAL = 100, 25_000
"""Range of examples times epochs for `auto`, from OpenAI's cookbook (see above)."""

MANY_EXAMPLES = 500
FEW_BATCH, MANY_BATCH = 4, 16
FEW_MULTIPLIER, MANY_MULTIPLIER = 1.0, 0.2
"""Batch size and multiplier up to `MANY_EXAMPLES` examples, and above."""

Value = float | Literal["auto"] | None
"""A hyperparameter in a request; None: omitted, which means `auto`."""


@dataclass(frozen=True)
class ResolvedHyperparameters:
    """A job's hyperparameters as numbers.

    Attributes:
        multiplier: the value that the job shows, with `auto` resolved.
    """

    epoch_count: int
    batch_size: int
    multiplier: float

    @property
    def learning_rate(self) -> float:
        """The optimiser's learning rate."""
        return BASE_LEARNING_RATE * self.multiplier


def resolve(
    n_epochs: Value, batch_size: Value, multiplier: Value, examples: int, where: str
) -> ResolvedHyperparameters:
    """Return the hyperparameters of a job as numbers.

    Args:
        n_epochs: from the request.
        batch_size: from the request.
        multiplier: from the request.
        examples: number of training examples.
        where: path of the request's object with the hyperparameters, for errors.

    Raises:
        ServiceError: a value is out of range.
    """
    many = examples > MANY_EXAMPLES
    epoch_count = _whole(n_epochs, f"{where}.n_epochs", _epochs(examples))
    batch = _whole(batch_size, f"{where}.batch_size", MANY_BATCH if many else FEW_BATCH)
    if multiplier is None or multiplier == AUTO:
        multiplier = MANY_MULTIPLIER if many else FEW_MULTIPLIER
    if not multiplier > 0:
        raise invalid(f"{where}.learning_rate_multiplier", f"must be greater than 0, or 'auto', not {multiplier:g}")
    # What the engine can train, in steps and in float32, is checked by the core for both wires.
    return ResolvedHyperparameters(epoch_count, batch, float(multiplier))


def _epochs(examples: int) -> int:
    if examples * USUAL_EPOCHS < LEAST_TOTAL:
        return min(MOST_EPOCHS, LEAST_TOTAL // examples)
    if examples * USUAL_EPOCHS > MOST_TOTAL:
        return max(FEW_EPOCHS, MOST_TOTAL // examples)
    return USUAL_EPOCHS


def _whole(value: Value, field: str, default: int) -> int:
    if value is None or value == AUTO:
        return default
    # 3.0 too: in JSON Schema a number with a zero fraction is an integer.
    if not math.isfinite(value) or value != int(value) or value < 1:
        raise invalid(field, f"must be a whole number of 1 or more, or 'auto', not {value:g}")
    if value > MAX_STEPS:
        raise invalid(field, f"must be at most {MAX_STEPS:,}, not {value:g}")
    return int(value)
