"""The loss of the expected answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tunerun.metrics.base import Asks, FloatArray, RowMetric, Unit


class AnswerLoss(RowMetric):
    """The mean loss of the expected answer's tokens given the question, averaged over the answers; less is better.

    The negative log-likelihood that training minimises, in nats per output token. Nothing is generated, so it is cheap
    and moves where `exact_match` is 0; it cannot be compared between base models with different tokenizers, and it does
    not say whether an answer is right. `validation/loss` weighs each token the same instead of each answer.
    """

    name = "answer_loss"
    unit: ClassVar[Unit] = Unit.NATS
    higher_is_better = False
    asks: ClassVar[Asks] = Asks.LOSSES

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:  # noqa: ARG002
        """Return nothing: it is never called, because the losses that a backend measures are the rows."""
        return np.empty((0, 1))
