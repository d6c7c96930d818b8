"""OpenAI's three hyperparameters as numbers: what `auto` means here, and what a multiplier multiplies.

What OpenAI's own service chooses for `auto` is not published. This one chooses by the number of training examples:

| examples | n_epochs | batch_size | learning_rate_multiplier |
| --- | --- | --- | --- |
| 1 to 4 | 25 | 4 | 1 |
| 5 to 33 | 100 / examples, rounded down | 4 | 1 |
| 34 to 500 | 3 | 4 | 1 |
| 501 to 8,333 | 3 | 16 | 0.2 |
| 8,334 to 12,500 | 2 | 16 | 0.2 |
| 12,501 and more | 1 | 16 | 0.2 |

The epochs are those by which OpenAI's cookbook estimates a job's price (Chat_finetuning_data_prep, 2023: three, and as
many more or less as bring the examples seen into 100 to 25,000, at most 25); batch size and learning rate are those of
the Gemini wire, so that a data set gives the same model on both where only the epochs are named. The learning rate is
the multiplier times 0.001, whatever the number of examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tunerun.job import BASE_LEARNING_RATE
from tunerun.service.core.problems import invalid

AUTO: Literal["auto"] = "auto"

FEW_EPOCHS, MOST_EPOCHS, USUAL_EPOCHS = 1, 25, 3
LEAST_SEEN, MOST_SEEN = 100, 25_000
"""Examples times epochs that `auto` aims at; OpenAI's cookbook, see above."""

MANY_EXAMPLES = 500
FEW_BATCH, MANY_BATCH = 4, 16
FEW_MULTIPLIER, MANY_MULTIPLIER = 1.0, 0.2
"""Of batch and multiplier up to `MANY_EXAMPLES` and above."""

MOST_STEPS = 2**31 - 1
LEAST_RATE, MOST_RATE = 1e-30, 3.4e38
"""Of a learning rate: the engine computes with floats of 32 bits."""

Value = float | Literal["auto"] | None
"""What a request says of a hyperparameter; None: nothing, which means `auto`."""


@dataclass(frozen=True)
class Resolved:
    """A job's hyperparameters as numbers.

    Attributes:
        multiplier: as the job shows it, `auto` worked out.
    """

    epoch_count: int
    batch_size: int
    multiplier: float

    @property
    def learning_rate(self) -> float:
        """The learning rate of the optimiser."""
        return BASE_LEARNING_RATE * self.multiplier


def resolve(n_epochs: Value, batch_size: Value, multiplier: Value, examples: int, where: str) -> Resolved:
    """The numbers of a job.

    Args:
        examples: how many there are to train on.
        where: the path of the object that has them, for messages.

    Raises:
        ServiceError: a value is not one that can be trained with.
    """
    many = examples > MANY_EXAMPLES
    found = Resolved(
        _whole(n_epochs, f"{where}.n_epochs", _epochs(examples)),
        _whole(batch_size, f"{where}.batch_size", MANY_BATCH if many else FEW_BATCH),
        _multiplier(multiplier, f"{where}.learning_rate_multiplier", MANY_MULTIPLIER if many else FEW_MULTIPLIER),
    )
    steps = math.ceil(examples / found.batch_size) * found.epoch_count
    if steps > MOST_STEPS:
        raise invalid(f"{where}.n_epochs", f"gives {steps:,} steps, the limit is {MOST_STEPS:,}; choose fewer epochs")
    return found


def _epochs(examples: int) -> int:
    if examples * USUAL_EPOCHS < LEAST_SEEN:
        return min(MOST_EPOCHS, LEAST_SEEN // examples)
    if examples * USUAL_EPOCHS > MOST_SEEN:
        return max(FEW_EPOCHS, MOST_SEEN // examples)
    return USUAL_EPOCHS


def _whole(value: Value, field: str, default: int) -> int:
    if value is None or value == AUTO:
        return default
    if not math.isfinite(value) or value != int(value) or value < 1:
        raise invalid(field, f"must be a whole number of 1 or more, or 'auto', not {value:g}")
    if value > MOST_STEPS:
        raise invalid(field, f"must be at most {MOST_STEPS:,}, not {value:g}")
    return int(value)


def _multiplier(value: Value, field: str, default: float) -> float:
    if value is None or value == AUTO:
        return default
    if not value > 0:
        raise invalid(field, f"must be greater than 0, or 'auto', not {value:g}")
    if not LEAST_RATE <= BASE_LEARNING_RATE * value <= MOST_RATE:
        rate = BASE_LEARNING_RATE * value
        raise invalid(field, f"gives a learning rate of {rate:g}, by which nothing can be learned; choose one near 1")
    return float(value)
