"""What sacrebleu counts in each segment; its corpus scores are made of the sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunerun.metrics.base import FloatArray


def segment_counts(scorer: Any, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
    """What a `sacrebleu.metrics` object counts in each row, [rows, counts].

    By the method that sacrebleu's own resampling tests use (`significance.py` of 2.6.0); there is no public one.
    """
    counted = scorer._extract_corpus_statistics(list(answers), [list(expected)])
    return np.array(counted, dtype=np.float64)
