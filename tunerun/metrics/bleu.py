"""BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from tunerun.metrics.base import FloatArray, MetricModel, Unit
from tunerun.metrics.sacrebleu_counts import SegmentCounts

_ORDER = 4
"""The longest n-grams, as in the paper."""


@cache
def _counter(tokenize: str) -> SegmentCounts:
    from sacrebleu.metrics.bleu import BLEU

    return SegmentCounts(BLEU(tokenize=tokenize))


class Bleu(MetricModel):
    """BLEU: how many of the answer's word n-grams (n from 1 to 4) the expected text has, for the whole corpus.

    Papineni et al. 2002 (P02-1040), as sacrebleu computes it (`corpus_bleu`, smoothing `exp`; Post 2018, W18-6319).
    Made for corpora of whole sentences: where answers are shorter than four words, `chrf` says more.
    """

    name = "bleu"
    unit: ClassVar[Unit] = Unit.HUNDRED
    is_corpus = True
    packages = ("sacrebleu",)

    tokenize: Literal["13a", "intl", "char", "zh", "none"] = Field(
        "13a", description="sacrebleu's tokenizer; 13a: that of WMT, char: characters, zh: Chinese."
    )

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
        """Return what each row adds to the corpus: words, matches and n-grams by order, and the rows."""
        # The smoothing of an order without a match depends on the number of n-grams, so `value` has to turn means back
        # into sums: for that each row carries the number of rows.
        counted = _counter(self.tokenize).rows(expected, answers)
        return np.column_stack([counted, np.full(len(counted), len(counted))])

    def value(self, means: FloatArray) -> FloatArray:
        """Return the brevity penalty times the geometric mean of the precisions."""
        sums = means[..., :-1] * means[..., -1:]
        given, wanted = sums[..., 0], sums[..., 1]
        right, total = sums[..., 2 : 2 + _ORDER], sums[..., 2 + _ORDER :]
        # `exp`: the first order without a match counts as half a match, the second as a quarter, and so on.
        halves = 0.5 ** np.cumsum((right <= 0) & (total > 0), axis=-1)
        matches = np.where(right > 0, right, halves)
        precision = np.divide(matches, total, out=np.zeros_like(matches), where=total > 0)
        defined = np.all(total > 0, axis=-1) & np.any(right > 0, axis=-1)
        logs = np.log(np.where(defined[..., None], precision, 1.0)).mean(axis=-1)
        short = 1 - np.divide(wanted, given, out=np.ones_like(given), where=given > 0)
        score: FloatArray = np.where(defined, 100 * np.exp(np.minimum(short, 0.0) + logs), 0.0)
        return score
