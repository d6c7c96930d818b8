"""F1 of each label, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunerun.metrics.base import FloatArray, MetricModel
from tunerun.metrics.labels import by_class, counts, mean_over_present


class MacroF1(MetricModel):
    """F1 of each label, averaged over the labels: a rare one counts as much as a frequent one.

    scikit-learn's `f1_score(average="macro", zero_division=0)` with the labels that occur among the expected answers;
    labels are read as by `accuracy`. An answer that is none of them is a miss of the expected label.
    """

    name = "macro_f1"
    is_corpus = True

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
        """Return the counts of each label, [rows, 3 * labels]; see `labels.counts`."""
        return counts(expected, answers)

    def value(self, means: FloatArray) -> FloatArray:
        """Return the mean of F1 over the labels that were expected."""
        # A resample may lack a label: 0 / tiny is then 0 and not NaN, as with zero_division=0.
        expected, answered, both = by_class(means)
        f1 = 2 * both / np.maximum(expected + answered, np.finfo(float).tiny)
        return mean_over_present(f1, expected)
