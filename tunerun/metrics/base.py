"""The Protocol of metrics, and base classes for metrics whose options are fields."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
else:  # only for annotations: a plan reads names and units, and should not import numpy
    FloatArray = Any


class Unit(StrEnum):
    """The unit of a metric's value, which decides how it is written."""

    SHARE = "share of 1"
    """Written as a percentage."""
    HUNDRED = "0 to 100"
    """The scale of BLEU and chrF."""
    NATS = "nats per output token"
    NUMBER = "number"


RANGES = {Unit.SHARE: 1.0, Unit.HUNDRED: 100.0}
"""The largest possible difference of two values; a unit that is missing here has no limits."""


class Asks(StrEnum):
    """What a metric needs from a model."""

    ANSWERS = "answers"
    """A generated text, or the likeliest of the choices."""
    LOSSES = "losses"
    """The mean loss of each expected answer; nothing is generated."""


class Metric(Protocol):
    """How answers are scored against the expected ones.

    A metric turns each row into numbers that can be averaged over rows, and those means into its value. A row-wise
    metric has one number, its score, and its value is the mean score. A corpus metric has counts (n-gram matches, the
    cells of a confusion matrix): because they add up, its value can be computed again for any resample of the rows
    without reading a text again.
    """

    @property
    def name(self) -> str:
        """The word in `evaluation.metrics`; MLflow shows `eval/<name>`."""

    @property
    def unit(self) -> Unit:
        """The unit of its value."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value is better."""

    @property
    def asks(self) -> Asks:
        """What it needs from the model."""

    @property
    def is_corpus(self) -> bool:
        """Whether its value is something other than the mean of its rows."""

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
        """Return what each row contributes.

        Args:
            expected: the right answers.
            answers: one for each of them. A metric that asks for losses is not called: the losses are its rows.

        Returns:
            Shape (rows, m); m is 1 for a row-wise metric.
        """

    def value(self, means: FloatArray) -> FloatArray:
        """Return the metric's value for means over rows, shape (..., m) to (...)."""


class MetricModel(BaseModel):
    """A metric whose options are its fields, validated strictly like everything that is read from YAML.

    A subclass sets `name` and the class variables that differ, and defines `rows` and `value`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    name: ClassVar[str]
    unit: ClassVar[Unit] = Unit.SHARE
    higher_is_better: ClassVar[bool] = True
    asks: ClassVar[Asks] = Asks.ANSWERS
    is_corpus: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()
    """Package of the extra `text` that it needs; imported when rows are scored, not before."""

    def unsuited(self, expected: str) -> str | None:  # noqa: ARG002
        """Return why this expected answer cannot be scored, such as "is not JSON"; None: it can.

        A plan reports it for each row before anything is trained; a metric that cannot fail need not define it.
        """
        return None


def column_of(scores: Sequence[float]) -> FloatArray:
    """Return scores of rows in the shape of `Metric.rows`: (rows, 1)."""
    import numpy as np

    return np.array(scores, dtype=np.float64).reshape(-1, 1)


class RowMetric(MetricModel):
    """A metric that scores each answer by itself; its value is the mean of the scores."""

    def score(self, expected: str, answer: str) -> float:
        """Return the score of one answer, in the metric's unit."""
        raise NotImplementedError

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
        """Return the score of each row, [rows, 1]."""
        scores = [self.score(*pair) for pair in zip(expected, answers, strict=True)]
        return column_of(scores)

    def value(self, means: FloatArray) -> FloatArray:
        """Return the mean score."""
        return means[..., 0]
