"""Exact match."""

from __future__ import annotations

from pydantic import Field

from tunerun.metrics.base import RowMetric
from tunerun.metrics.normalisation import Ignored, normalised


class ExactMatch(RowMetric):
    """Whether the answer is the expected one, apart from white space at the ends and what `ignore` lists.

    With all four kinds ignored it is the exact match of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250).
    """

    name = "exact_match"

    ignore: list[Ignored] = Field(
        default_factory=list,
        description="What answers may differ in: case, punctuation, articles (a, an, the), white_space; empty: nothing "
        "but white space at the ends.",
    )

    def score(self, expected: str, answer: str) -> float:
        """Return 1.0 if the normalised texts are equal, else 0.0."""
        # As a text: `5` and `5.0` differ here; `numeric` compares values.
        return float(normalised(expected, self.ignore) == normalised(answer, self.ignore))
