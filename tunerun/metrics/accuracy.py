"""The share of right labels."""

from __future__ import annotations

from tunerun.metrics.base import RowMetric
from tunerun.metrics.labels import label


class Accuracy(RowMetric):
    """The share of answers that name the right label.

    It differs from `exact_match` in what counts as the same: case, white space, quotes around the label and a stop
    behind it are ignored, so `Positive.` is `positive`. `exact_match` compares the text as it is.
    """

    name = "accuracy"

    def score(self, expected: str, answer: str) -> float:
        """Return 1.0 if both texts name the same label, else 0.0."""
        # Not restricted to the labels of the data: an answer that is none of them equals no expected one anyway.
        return float(label(expected) == label(answer))
