"""chrF."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from tunerun.metrics.base import FloatArray, MetricModel, Unit
from tunerun.metrics.sacrebleu_counts import SegmentCounts

_BETA = 2
"""Recall counts twice as much as precision: chrF2, the default of sacrebleu."""


@cache
def _counter(word_order: int) -> SegmentCounts:
    from sacrebleu.metrics.chrf import CHRF

    return SegmentCounts(CHRF(word_order=word_order, beta=_BETA))


class Chrf(MetricModel):
    """chrF: how much of the text's character n-grams agree (n from 1 to 6, recall counts twice), for the whole corpus.

    Popović 2015 and 2016 (W15-3049, W16-2341), as sacrebleu computes it (`corpus_chrf`). Works for any language, and
    for short answers, where BLEU does not.
    """

    name = "chrf"
    unit: ClassVar[Unit] = Unit.HUNDRED
    is_corpus = True
    packages = ("sacrebleu",)

    word_order: Literal[0, 1, 2] = Field(
        0, description="Word n-grams beside the characters; 0: chrF, 2: chrF++.", json_schema_extra={"unit": "words"}
    )

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
        """Return for each row and order the n-grams of the answer, of the expected text, and of both."""
        return _counter(self.word_order).rows(expected, answers)

    def value(self, means: FloatArray) -> FloatArray:
        """Return F of the precision and the recall, each averaged over the orders that both sides have."""
        given, wanted, both = (means[..., column::3] for column in range(3))
        # An order that one side is too short for is left out, as in sacrebleu; else short answers could not reach 100.
        counted = (given > 0) & (wanted > 0)
        orders = np.maximum(counted.sum(axis=-1), 1)
        precision = np.sum(np.divide(both, given, out=np.zeros_like(both), where=counted), axis=-1) / orders
        recall = np.sum(np.divide(both, wanted, out=np.zeros_like(both), where=counted), axis=-1) / orders
        below = _BETA**2 * precision + recall
        above = (1 + _BETA**2) * precision * recall
        score: FloatArray = 100 * np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return score
