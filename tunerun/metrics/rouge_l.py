"""ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from tunerun.metrics.base import FloatArray, RowMetric

_READ = re.compile(r"[a-z0-9]", re.IGNORECASE)


class RougeL(RowMetric):
    """F1 of the longest common subsequence of words, averaged over the answers: for summaries.

    Lin 2004 (W04-1013), as the package rouge-score computes it (`rougeL`, F measure). It reads Latin letters and digits
    alone.
    """

    name = "rouge_l"
    packages = ("rouge_score",)

    stemmer: bool = Field(False, description="Whether English endings are removed first (Porter's stemmer).")

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
        """Return the F measure of each row, 0 to 1, [rows, 1]."""
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        # A row's own score, and not a count: ROUGE-L of a corpus is the mean over its texts.
        scorer = RougeScorer(["rougeL"], tokenizer=DefaultTokenizer(self.stemmer))
        scores = [scorer.score(*pair)["rougeL"].fmeasure for pair in zip(expected, answers, strict=True)]
        return np.array(scores, dtype=np.float64).reshape(-1, 1)

    def unsuited(self, expected: str) -> str | None:
        """Return why an expected text cannot be scored: it has no Latin letters or digits."""
        return None if _READ.search(expected) else "has no Latin letter or digit, which is all that ROUGE reads"
