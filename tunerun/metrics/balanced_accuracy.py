"""Recall of each label, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunerun.metrics.base import FloatArray, MetricModel
from tunerun.metrics.labels import by_class, counts, mean_over_present


class BalancedAccuracy(MetricModel):
    """The share of right answers of each label, averaged over the labels.

    scikit-learn's `balanced_accuracy_score`; labels are read as by `accuracy`. Always giving one of k labels has 1 / k,
    however frequent it is.
    """

    name = "balanced_accuracy"
    is_corpus = True

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
        """Return the counts of each label, [rows, 3 * labels]; see `labels.counts`."""
        return counts(expected, answers)

    def value(self, means: FloatArray) -> FloatArray:
        """Return the mean recall over the labels that were expected."""
        # A resample may lack a label: 0 / tiny is then 0 and not NaN, and the mean leaves the label out.
        expected, _, both = by_class(means)
        return mean_over_present(both / np.maximum(expected, np.finfo(float).tiny), expected)
